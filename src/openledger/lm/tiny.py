"""A seeded random Llama of under 1 MB in the same folder format, for tests and `demo --tiny`.

It knows nothing, speaks nothing and is built in a moment. Its byte-level vocabulary is the 256
bytes, two control tokens and a few dozen merges written down here, so it is the same everywhere.
"""

from hashlib import sha256
from pathlib import Path

import tokenizers
import torch
from tokenizers import decoders, pre_tokenizers
from tokenizers.models import BPE
from torch import Tensor
from transformers.models.llama import LlamaForCausalLM

from openledger.core.types import Digest
from openledger.lm.base import BaseParts, Provenance, llama_config, write_base
from openledger.lm.tokenizer import byte_letters

START, END = "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LAYERS = 4

# Pairs that become one token, in order of priority; "_" stands for a space.
_MERGES = """
t+h th+e _+t _t+h _th+e i+n _+a e+r o+n r+e _+s _+o a+n _+i e+n o+r _o+f _a+n _an+d _t+o i+s a+t
e+s _+c _+w i+t _i+n a+r e+d in+g o+u a+l l+e _+p _+b _+m _+f _+h _+d l+y _+l _+T _T+h _Th+e
X+: T+: M+: K+: L+: |+| |+: :+| |+2 A+B B+c c+d d+e e+f f+g g+a G+A F+G E+F D+E B+A A+G G+F F+E
E+D f+e d+c c+B
"""

_CONFIG: dict[str, object] = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}


def build_tiny(folder: Path, seed: int = 0) -> Digest:
    """Write the tiny base model of this seed, unless the folder is there already.

    Returns:
        Its digest.
    """
    vocabulary = _vocabulary()
    config = _CONFIG | {
        "vocab_size": len(vocabulary),
        "bos_token_id": vocabulary[START],
        "eos_token_id": vocabulary[END],
        "pad_token_id": vocabulary[END],
    }
    provenance = Provenance(
        name=f"tiny random Llama, seed {seed}",
        licence="Apache-2.0",
        owner="openledger",
        source="openledger.lm.tiny",
        source_digest=Digest(sha256(f"openledger tiny {seed}".encode()).hexdigest()),
    )
    parts = BaseParts(
        provenance=provenance,
        weights=_weights(config, seed),
        config=config,
        tokenizer_json=_tokenizer_json(vocabulary),
        template=TEMPLATE,
    )
    return write_base(folder, parts)


def _pairs() -> list[tuple[str, str]]:
    halves = [pair.replace("_", "Ġ").split("+") for pair in _MERGES.split()]
    return [(left, right) for left, right in halves]


def _vocabulary() -> dict[str, int]:
    letters = [byte_letters()[byte] for byte in range(256)]
    names = [START, END, *letters, *(left + right for left, right in _pairs())]
    return {name: i for i, name in enumerate(names)}


def _tokenizer_json(vocabulary: dict[str, int]) -> str:
    tokenizer = tokenizers.Tokenizer(BPE(vocab=vocabulary, merges=_pairs()))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    control = [tokenizers.AddedToken(n, special=True, normalized=False) for n in (START, END)]
    tokenizer.add_special_tokens(control)
    return str(tokenizer.to_str())


def _weights(config: dict[str, object], seed: int) -> dict[str, Tensor]:
    with torch.device("meta"):
        shapes = LlamaForCausalLM(llama_config(config | {"tie_word_embeddings": True}))
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, tensor in sorted(shapes.state_dict().items()):
        if name == "lm_head.weight":
            continue  # tied to the embedding
        if name.endswith("norm.weight"):
            weights[name] = torch.ones(tensor.shape)
        else:
            # Wider than a trainer would start with: layers must matter for their gradients to.
            spread = 1 / tensor.shape[-1] ** 0.5
            weights[name] = torch.randn(tensor.shape, generator=generator) * spread
    return weights
