import shutil
from pathlib import Path

import msgspec
import pytest
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from openledger.core.errors import DigestMismatchError, InvalidInputError, NotFoundError
from openledger.core.types import Digest
from openledger.lm.base import (
    BaseModel,
    BaseParts,
    Provenance,
    digest_file,
    load_base,
    verify_base,
    write_base,
)
from openledger.lm.tiny import build_tiny
from openledger.lm.tokenizer import ChatMessage

IDS = torch.tensor([[5, 80, 270, 9, 33, 2]])


def test_the_folder_loads_in_transformers_with_the_same_logits_and_template(
    tiny: BaseModel,
) -> None:
    other = AutoModelForCausalLM.from_pretrained(tiny.folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny.folder)
    turns = [{"role": "user", "content": "X:1\nT:The Hill"}]

    assert torch.allclose(other(IDS).logits, tiny.model(IDS).logits, atol=1e-5)
    theirs = tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
    assert theirs == tiny.tokenizer.encode_chat([ChatMessage("user", "X:1\nT:The Hill")])


def test_a_base_knows_its_name_licence_and_depth(tiny: BaseModel) -> None:
    assert (tiny.name, tiny.licence, tiny.layers) == ("tiny random Llama, seed 0", "Apache-2.0", 4)


def test_weights_load_in_the_asked_precision_and_are_frozen(tiny_folder: Path) -> None:
    base = load_base(tiny_folder, dtype=torch.bfloat16)

    assert {p.dtype for p in base.model.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in base.model.parameters())


def test_writing_twice_leaves_the_first_folder_and_no_scratch(tmp_path: Path) -> None:
    first = build_tiny(tmp_path / "base")
    stamp = (tmp_path / "base" / "manifest.json").stat().st_mtime_ns

    assert build_tiny(tmp_path / "base") == first
    assert (tmp_path / "base" / "manifest.json").stat().st_mtime_ns == stamp
    assert [p.name for p in tmp_path.iterdir()] == ["base"]


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_one_altered_byte_anywhere_is_found(
    data: st.DataObject, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("altered") / "base"
    shutil.copytree(tiny_folder, folder)
    good = load_base(tiny_folder).digest
    path = data.draw(st.sampled_from(sorted(folder.iterdir())))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)

    with pytest.raises(DigestMismatchError, match=r"was altered|holds base model"):
        verify_base(folder, good)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "manifest.json"])
def test_the_files_that_no_digest_names_are_checked_too(
    name: str, tiny_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_folder, tmp_path / "base")
    path = tmp_path / "base" / name
    path.write_bytes(path.read_bytes().replace(b"<|im_end|>", b"<|im_start|>") + b" ")

    with pytest.raises(DigestMismatchError, match=f"{name} was altered"):
        load_base(tmp_path / "base")


def test_the_end_token_is_the_one_that_the_config_names(tiny_folder: Path) -> None:
    config = msgspec.json.decode((tiny_folder / "config.json").read_bytes())

    assert load_base(tiny_folder).tokenizer.end == config["eos_token_id"]


@pytest.mark.parametrize("end", [None, 10_000])
def test_a_base_without_an_end_token_is_refused(end: int | None, tmp_path: Path) -> None:
    about = Provenance("x", "MIT", "x", "x", Digest("0" * 64))
    vocabulary = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={"a": 0}, merges=[])).to_str()
    parts = BaseParts(about, {"x": torch.ones(1)}, {"eos_token_id": end}, vocabulary, "")

    with pytest.raises(InvalidInputError, match="names no end token"):
        write_base(tmp_path / "base", parts)


def test_another_base_than_the_expected_one_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(DigestMismatchError, match="not ffff"):
        load_base(tiny_folder, expected=Digest("f" * 64))


def test_a_missing_base_or_file_is_named(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "base")
    for name in ("tokenizer_config.json", "tokenizer.json"):
        (tmp_path / "base" / name).unlink()
        with pytest.raises(NotFoundError, match=f"{name} is missing"):
            load_base(tmp_path / "base")
    with pytest.raises(NotFoundError, match="no base model"):
        load_base(tmp_path / "nothing")


def test_an_unknown_storage_precision_is_refused(tmp_path: Path) -> None:
    about = Provenance("x", "MIT", "x", "x", Digest("0" * 64))
    parts = BaseParts(about, {}, {}, "{}", "", dtype="int3")

    with pytest.raises(InvalidInputError, match="not int3"):
        write_base(tmp_path / "base", parts)
    assert list(tmp_path.iterdir()) == []


def test_a_file_digest_is_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")

    assert digest_file(tmp_path / "x").startswith("ba7816bf")
