import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from openledger.core.errors import (
    ConflictError,
    DigestMismatchError,
    InvalidInputError,
    NotFoundError,
)
from openledger.core.types import Digest
from openledger.lm.base import BaseModel
from openledger.lm.checkpoint import adapter_digest, load_adapter, save_adapter
from openledger.lm.lora import Adapter, LoraHost, MixMember

# peft 0.21 still asks transformers 5.23 by a name that goes away in v6.
PEFT_WARNS = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
IDS = torch.tensor([[5, 80, 270, 9, 33, 2]])


@pytest.fixture
def folder(tmp_path: Path, tiny: BaseModel, adapter: Adapter) -> Path:
    save_adapter(tmp_path / "adapter", adapter, tiny.name)
    return tmp_path / "adapter"


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


def configure(folder: Path, **fields: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_what_is_saved_is_loaded(folder: Path, tiny: BaseModel, adapter: Adapter) -> None:
    loaded = load_adapter(folder, tiny, adapter_digest(folder))

    assert (loaded.shape, loaded.base) == (adapter.shape, tiny.digest)
    for site, pair in adapter.pairs.items():
        assert torch.equal(loaded.pairs[site].a, pair.a)
        assert torch.equal(loaded.pairs[site].b, pair.b)


@PEFT_WARNS
def test_peft_loads_the_folder_and_agrees(folder: Path, tiny: BaseModel, adapter: Adapter) -> None:
    model = PeftModel.from_pretrained(tiny.model, folder)
    theirs = model(IDS).logits
    model.unload()
    host = LoraHost(tiny.model, tiny.digest)
    host.add(Digest("1" * 64), adapter)

    with host.mixed([MixMember(Digest("1" * 64))]):
        assert (tiny.model(IDS).logits - theirs).abs().max() < 1e-5


def test_the_digest_depends_on_both_files_and_on_nothing_else(
    folder: Path, tiny: BaseModel, adapter: Adapter
) -> None:
    digest = adapter_digest(folder)
    (folder / "README.md").write_text("a note")
    assert adapter_digest(folder) == digest

    configure(folder, lora_alpha=7)
    assert adapter_digest(folder) != digest

    assert save_adapter(folder, adapter, tiny.name) == digest
    rewrite(folder, lambda tensors: next(iter(tensors.values())).add_(1))
    with pytest.raises(DigestMismatchError, match="not"):
        load_adapter(folder, tiny, digest)


def test_saving_leaves_no_scratch_behind(folder: Path) -> None:
    assert sorted(p.name for p in folder.parent.iterdir()) == ["adapter"]
    assert sorted(p.name for p in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_pickled_weights_are_refused(folder: Path, tiny: BaseModel) -> None:
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04")

    with pytest.raises(InvalidInputError, match="pickled weights can run code"):
        load_adapter(folder, tiny)


def test_an_adapter_of_another_base_is_refused(folder: Path, tiny: BaseModel) -> None:
    configure(folder, revision="a" * 64)

    with pytest.raises(ConflictError, match="aaaa"):
        load_adapter(folder, tiny)


@pytest.mark.parametrize("size", [0, 5, 200, -1])
def test_truncated_weights_are_refused(folder: Path, tiny: BaseModel, size: int) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:size])

    with pytest.raises(InvalidInputError, match="truncated"):
        load_adapter(folder, tiny)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda t: t.popitem(), "1 tensors are missing"),
        (lambda t: t.update(evil=torch.zeros(1)), "not expected, the first is evil"),
        (lambda t: next(iter(t.values())).fill_(float("nan")), "no finite numbers"),
        (lambda t: next(iter(t.values())).fill_(float("inf")), "no finite numbers"),
        (lambda t: t.update({min(t): torch.zeros(3, 3)}), "has shape"),
        (lambda t: t.update({min(t): t[min(t)].to(torch.int32)}), "no finite numbers"),
    ],
)
def test_wrong_tensors_are_named(
    folder: Path,
    tiny: BaseModel,
    change: Callable[[dict[str, torch.Tensor]], object],
    complaint: str,
) -> None:
    rewrite(folder, change)

    with pytest.raises(InvalidInputError, match=complaint):
        load_adapter(folder, tiny)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"r": 0}, "rank 0 is outside 1 to 256"),
        ({"r": 257}, "rank 257"),
        ({"lora_alpha": 0}, "alpha 0"),
        ({"lora_alpha": 65_537}, "alpha 65537"),
        ({"layers_to_transform": []}, "not rising"),
        ({"layers_to_transform": [3, 2]}, "not rising"),
        ({"layers_to_transform": [2, 4]}, "layer 4 is outside a base of 4"),
        ({"target_modules": ["lm_head"]}, "not among"),
        ({"target_modules": []}, "not among"),
        ({"bias": "all"}, "not a plain LoRA"),
        ({"use_dora": True}, "not a plain LoRA"),
        ({"peft_type": "IA3"}, "not a plain LoRA"),
        ({"r": "eight"}, "no LoRA configuration"),
        ({"r": 4}, "has shape"),
    ],
)
def test_a_wrong_configuration_is_refused(
    folder: Path, tiny: BaseModel, fields: dict[str, object], complaint: str
) -> None:
    configure(folder, **fields)

    with pytest.raises(InvalidInputError, match=complaint):
        load_adapter(folder, tiny)


def test_a_missing_adapter_is_named(tmp_path: Path, tiny: BaseModel) -> None:
    with pytest.raises(NotFoundError, match=r"adapter_config\.json is missing"):
        load_adapter(tmp_path, tiny)
