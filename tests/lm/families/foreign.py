"""Tiny random models of each family, and folders of them as others publish them."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import tokenizers
import torch
from safetensors.torch import save_file
from tokenizers import normalizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from torch import Tensor

from openledger.lm.families.architecture import CausalModel, config_of, model_of
from openledger.lm.tiny import build_tiny

KINDS = ("llama", "mistral", "qwen2", "qwen3")
SIZES: dict[str, object] = {
    "vocab_size": 384,  # more than the tokenizer has: padded, as is usual
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "rope_theta": 5_000.0,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "torch_dtype": "float32",
    "transformers_version": "4.51.0",
    "use_cache": True,
}
OWN: dict[str, dict[str, object]] = {
    "llama": {"attention_bias": True, "mlp_bias": True, "architectures": ["LlamaForCausalLM"]},
    "mistral": {
        "head_dim": 20,  # not hidden_size / num_attention_heads
        "sliding_window": 96,
        "architectures": ["MistralForCausalLM"],
    },
    "qwen2": {
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "sliding_window": 32,
        "max_window_layers": 2,
        "architectures": ["Qwen2ForCausalLM"],
    },
    "qwen3": {"head_dim": 24, "attention_bias": False, "architectures": ["Qwen3ForCausalLM"]},
}


def fields_of(kind: str) -> dict[str, object]:
    """A config.json in the words that most folders still use."""
    return {"model_type": kind, **SIZES, **OWN[kind]}


def random_model(kind: str, **changes: object) -> CausalModel:
    """A model whose every parameter matters: norms and biases are no ones and zeros."""
    config = config_of(fields_of(kind) | changes)
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: _random(name, tensor, generator)
        for name, tensor in model_of(config, {}).state_dict().items()
    }
    if config.tie_word_embeddings:
        del weights["lm_head.weight"]
    return model_of(config, weights)


def _random(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    numbers = torch.randn(tensor.shape, generator=generator)
    if name.endswith("norm.weight"):
        return 1 + 0.3 * numbers
    return 0.5 * numbers if name.endswith("bias") else numbers / tensor.shape[-1] ** 0.5


def write_folder(folder: Path, kind: str, shards: int = 1, **changes: object) -> CausalModel:
    """A folder of a random model as its maker would publish it; returns the model."""
    model = random_model(kind, **changes)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(fields_of(kind) | changes))
    build_tiny(folder / "tiny")
    shutil.copy(folder / "tiny" / "tokenizer.json", folder)
    template = (folder / "tiny" / "chat_template.jinja").read_text("utf-8")
    shutil.rmtree(folder / "tiny")
    config = {"eos_token": "<|im_end|>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    weights = dict(model.state_dict())
    if model.config.tie_word_embeddings:
        del weights["lm_head.weight"]
    write_weights(folder, weights, shards)
    return model


def write_weights(folder: Path, weights: Mapping[str, Tensor], shards: int = 1) -> None:
    """One file, or several with their index."""
    if shards == 1:
        save_file(dict(weights), folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(weights)
    places: dict[str, str] = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        own = {name: weights[name] for name in names[number::shards]}
        save_file(own, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(own, file)
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def sentencepiece() -> tokenizers.Tokenizer:
    """As Llama 2 and Mistral 7B have it: U+2581 for a space, one before each text, all bytes."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    names += ["▁", "a", "b", "▁a", "ab"]
    vocabulary = {name: i for i, name in enumerate(names)}
    merges = [("▁", "a"), ("a", "b")]
    made = tokenizers.Tokenizer(
        BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    made.add_special_tokens(
        [tokenizers.AddedToken(n, special=True, normalized=False) for n in names[:3]]
    )
    return made
