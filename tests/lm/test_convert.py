"""A wheel of our own with a small GGUF inside, laid out as llama.cpp does."""

import errno
import os
import zipfile
from pathlib import Path
from typing import NoReturn

import gguf
import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from openledger.core.errors import DigestMismatchError, InvalidInputError, StorageFullError
from openledger.core.types import Digest
from openledger.lm import base as base_folder
from openledger.lm.base import BaseModel, digest_file, load_base
from openledger.lm.convert import convert_smollm2, smollm2_folder
from openledger.lm.tiny import END, TEMPLATE
from openledger.lm.tokenizer import byte_letters

SOURCE = "a wheel of our own"
TO_GGUF = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def permute(rows: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's converter does to Q and K."""
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, 2, half, -1).swapaxes(1, 2).reshape(rows.shape)


def gguf_name(name: str) -> str:
    if not name.startswith("model.layers."):
        return {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}[
            name[:-7]
        ] + ".weight"
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{TO_GGUF[rest.removesuffix('.weight')]}.weight"


def write_wheel(path: Path, base: BaseModel, extra: str | None = None) -> None:
    writer = gguf.GGUFWriter(path.with_suffix(".gguf"), "llama")
    add_shape(writer, base)
    add_tokenizer(writer, base.model.config.vocab_size)
    add_weights(writer, base)
    if extra is not None:
        writer.add_tensor(extra, np.zeros((2, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(path.with_suffix(".gguf"), "package/model.gguf")


def add_shape(writer: gguf.GGUFWriter, base: BaseModel) -> None:
    config = base.model.config
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)


def add_tokenizer(writer: gguf.GGUFWriter, size: int) -> None:
    names = ["<|im_start|>", END, *(byte_letters()[i] for i in range(256)), "12", "ab"]
    names += [f"unused{i}" for i in range(size - len(names))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(names)
    writer.add_token_types([3, 3] + [1] * (len(names) - 2))
    writer.add_token_merges(["1 2", "a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(1)
    writer.add_chat_template(TEMPLATE)


def add_weights(writer: gguf.GGUFWriter, base: BaseModel) -> None:
    config = base.model.config
    for name, tensor in base.model.state_dict().items():
        if name == "lm_head.weight":
            continue
        values = tensor.numpy()
        if "q_proj" in name:
            values = permute(values, config.num_attention_heads)
        if "k_proj" in name:
            values = permute(values, config.num_key_value_heads)
        writer.add_tensor(gguf_name(name), np.ascontiguousarray(values))


def test_the_converted_model_is_the_one_that_was_packed(tmp_path: Path, tiny: BaseModel) -> None:
    wheel = tmp_path / "llm.whl"
    write_wheel(wheel, tiny)

    folder = convert_smollm2(wheel, tmp_path / "cache", digest_file(wheel), SOURCE)

    base = load_base(folder)
    ids = torch.tensor([[5, 80, 200, 9, 33, 2]])
    assert torch.allclose(base.model(ids).logits, tiny.model(ids).logits, atol=1e-5)
    assert base.manifest.source_digest == digest_file(wheel)
    assert base.manifest.source == SOURCE
    assert base.tokenizer.decode([1, 258, 259]) == "12ab"


def test_digits_stay_apart_though_the_merges_would_join_them(
    tmp_path: Path, tiny: BaseModel
) -> None:
    wheel = tmp_path / "llm.whl"
    write_wheel(wheel, tiny)

    base = load_base(convert_smollm2(wheel, tmp_path / "cache", digest_file(wheel), SOURCE))

    assert len(base.tokenizer.encode("12")) == 2
    assert len(base.tokenizer.encode("ab")) == 1


@pytest.mark.parametrize(
    ("module", "writer", "fault"),
    [
        (base_folder, "save_file", SafetensorError(f"I/O error: full (os error {errno.ENOSPC})")),
        (os, "fsync", OSError(errno.EDQUOT, "Disk quota exceeded")),
        (zipfile.ZipFile, "extract", OSError(errno.ENOSPC, "No space left on device")),
    ],
)
def test_a_full_disk_is_told_and_leaves_nothing(
    module: object,
    writer: str,
    fault: Exception,
    tmp_path: Path,
    tiny: BaseModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object, **__: object) -> NoReturn:
        raise fault

    wheel = tmp_path / "llm.whl"
    write_wheel(wheel, tiny)
    cache = tmp_path / "cache"
    monkeypatch.setattr(module, writer, full)

    with pytest.raises(StorageFullError, match="free some space"):
        convert_smollm2(wheel, cache, digest_file(wheel), SOURCE)
    assert not cache.exists() or list(cache.iterdir()) == []


def test_a_second_conversion_finds_the_first(tmp_path: Path, tiny: BaseModel) -> None:
    wheel = tmp_path / "llm.whl"
    write_wheel(wheel, tiny)
    digest = digest_file(wheel)
    folder = convert_smollm2(wheel, tmp_path / "cache", digest, SOURCE)
    stamp = (folder / "manifest.json").stat().st_mtime_ns

    assert convert_smollm2(wheel, tmp_path / "cache", digest, SOURCE) == folder
    assert smollm2_folder(tmp_path / "cache", digest) == folder
    assert (folder / "manifest.json").stat().st_mtime_ns == stamp


def test_another_wheel_than_the_reviewed_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "llm.whl").write_bytes(b"something else")

    with pytest.raises(DigestMismatchError, match="fetch it again"):
        convert_smollm2(tmp_path / "llm.whl", tmp_path / "cache", Digest("0" * 64), SOURCE)


def test_a_wheel_without_weights_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "llm.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("readme", "nothing here")

    with pytest.raises(InvalidInputError, match="0 GGUF files, not one"):
        convert_smollm2(wheel, tmp_path / "cache", digest_file(wheel), SOURCE)


def test_what_is_no_wheel_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "llm.whl"
    wheel.write_bytes(b"something else")

    with pytest.raises(InvalidInputError, match="is no wheel"):
        convert_smollm2(wheel, tmp_path / "cache", digest_file(wheel), SOURCE)


def test_an_unknown_tensor_is_refused_and_nothing_is_left(tmp_path: Path, tiny: BaseModel) -> None:
    wheel = tmp_path / "llm.whl"
    write_wheel(wheel, tiny, extra="blk.0.mystery.weight")

    with pytest.raises(InvalidInputError, match="unknown tensor"):
        convert_smollm2(wheel, tmp_path / "cache", digest_file(wheel), SOURCE)
    assert not (tmp_path / "cache").exists()


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    wheel = tmp_path / "llm.whl"
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(tmp_path / "model.gguf", "model.gguf")

    with pytest.raises(InvalidInputError, match=r"no field tokenizer\.ggml\.tokens"):
        convert_smollm2(wheel, tmp_path / "cache", digest_file(wheel), SOURCE)
