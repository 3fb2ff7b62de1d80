"""A base model small enough to be trained, and retrained hundreds of times, in a bench.

A Llama of three layers reads the larger part of the manual twice: enough to continue it badly,
which is what attribution needs, a model that adapters improve. The same pages give the same model
on one machine.
"""

import os
from hashlib import sha256
from pathlib import Path

import tokenizers
import torch
from tokenizers import decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from torch.nn.functional import cross_entropy
from transformers.models.llama import LlamaForCausalLM

from bench.attribution.corpus import PIECE_TOKENS, Page, Pages
from openledger.core.types import Digest
from openledger.lm.base import BaseModel, BaseParts, Provenance, llama_config, load_base, write_base
from openledger.lm.tiny import END, START, TEMPLATE

_VOCABULARY = 1_536
_CONFIG: dict[str, object] = {
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "tie_word_embeddings": True,
}
_BATCH = 16
_PEAK_RATE = 4e-3
_WARMUP = 40


def small_base(folder: Path, pages: Pages, steps: int) -> BaseModel:
    """The model that `steps` steps make of these pages, from `folder` if it was made before."""
    text = "\n".join(f"{page.name} {page.text}" for page in (*pages.reading, *pages.pool))
    name = sha256(f"{steps} {_CONFIG} {text}".encode()).hexdigest()[:16]
    target = folder / f"bench-{name}"
    if not target.exists():
        torch.set_num_threads(1)  # the same sums in the same order
        _make(target, pages, steps)
    return load_base(target)


def _make(target: Path, pages: Pages, steps: int) -> None:
    tokenizer = _tokenizer([*pages.reading, *pages.pool])
    config = _CONFIG | {
        "vocab_size": tokenizer.get_vocab_size(),
        "bos_token_id": tokenizer.token_to_id(START),
        "eos_token_id": tokenizer.token_to_id(END),
        "pad_token_id": tokenizer.token_to_id(END),
    }
    torch.manual_seed(0)
    model = LlamaForCausalLM(llama_config(config))
    _read(model, torch.tensor(_stream(tokenizer, pages.reading)), steps)
    weights = {
        n: w.detach().clone() for n, w in model.state_dict().items() if n != "lm_head.weight"
    }
    source = "bench.attribution, from pages of the Linux manual"
    provenance = Provenance(
        name="small bench Llama",
        licence="Apache-2.0",
        owner="openledger",
        source=source,
        source_digest=Digest(sha256(target.name.encode()).hexdigest()),
    )
    parts = BaseParts(
        provenance=provenance,
        weights=weights,
        config=config,
        tokenizer_json=str(tokenizer.to_str()),
        template=TEMPLATE,
        dtype="float32",
    )
    write_base(target, parts)


def _tokenizer(pages: list[Page]) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=[START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    tokenizer.train_from_iterator((page.text for page in pages), trainer)
    return tokenizer


def _stream(tokenizer: tokenizers.Tokenizer, pages: tuple[Page, ...]) -> list[int]:
    end = tokenizer.token_to_id(END)
    assert end is not None, "the end token is a special one"
    encoded = tokenizer.encode_batch([page.text for page in pages])
    return [token for page in encoded for token in (*page.ids, end)]


def _read(model: LlamaForCausalLM, tokens: torch.Tensor, steps: int) -> None:
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=_PEAK_RATE, weight_decay=0.05, betas=(0.9, 0.95)
    )
    source = torch.Generator().manual_seed(1)
    for step in range(steps):
        rate = _PEAK_RATE * min(1.0, (step + 1) / _WARMUP) * max(0.02, 1 - step / steps)
        for group in optimiser.param_groups:
            group["lr"] = rate
        starts = torch.randint(len(tokens) - PIECE_TOKENS - 1, (_BATCH,), generator=source)
        rows = torch.stack([tokens[start : start + PIECE_TOKENS + 1] for start in starts])
        logits = model(rows[:, :-1]).logits  # (B, T, V)
        loss = cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
