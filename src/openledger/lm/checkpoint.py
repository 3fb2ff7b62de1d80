"""Adapters on disk as standard PEFT folders, checked before they are believed.

A folder holds `adapter_config.json` and `adapter_model.safetensors` under PEFT's names, so peft,
vLLM and LoRAX load it. The digest of the base model stands in the field `revision`. The adapter's
digest is that of the two files' digests; nothing else in the folder counts.
"""

import os
import shutil
import tempfile
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from openledger.core.encoding import digest_of
from openledger.core.errors import (
    ConflictError,
    DigestMismatchError,
    InvalidInputError,
    full_disk,
)
from openledger.core.types import Digest
from openledger.lm.base import BaseModel, digest_file
from openledger.lm.lora import TARGETS, Adapter, LoraPair, LoraShape, Site, linear_at

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MAX_RANK = 256
MAX_ALPHA = 65_536

_PREFIX = "base_model.model."
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


class AdapterFiles(msgspec.Struct, frozen=True):
    """What an adapter's digest binds."""

    config: Digest
    weights: Digest


class _PeftConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of adapter_config.json that this package writes and reads."""

    peft_type: str = "LORA"
    task_type: str = "CAUSAL_LM"
    base_model_name_or_path: str
    revision: str
    r: int
    lora_alpha: int
    target_modules: list[str]
    layers_to_transform: list[int]
    lora_dropout: float = 0.0
    bias: str = "none"
    fan_in_fan_out: bool = False
    use_rslora: bool = False
    use_dora: bool = False
    modules_to_save: None = None
    inference_mode: bool = True


@full_disk(SafetensorError)
def save_adapter(folder: Path, adapter: Adapter, base_name: str) -> Digest:
    """Write an adapter whole or not at all; what stood in that folder before is replaced.

    Returns:
        The adapter's digest.

    Raises:
        StorageFullError: the disk is full.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".adapter-", dir=folder.parent))
    try:
        save_file(tensors_of(adapter), scratch / WEIGHTS, metadata={"format": "pt"})
        (scratch / CONFIG).write_bytes(_config_json(adapter, base_name))
        _flush(scratch)
        digest = adapter_digest(scratch)
        shutil.rmtree(folder, ignore_errors=True)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return digest


def adapter_digest(folder: Path) -> Digest:
    """The digest of the adapter in a folder.

    Raises:
        NotFoundError: one of its two files is missing.
    """
    return digest_of(AdapterFiles(digest_file(folder / CONFIG), digest_file(folder / WEIGHTS)))


def load_adapter(folder: Path, base: BaseModel, expected: Digest | None = None) -> Adapter:
    """Read an adapter for this base and check all of it.

    Raises:
        NotFoundError: a file is missing.
        DigestMismatchError: the files are not those that `expected` names.
        ConflictError: it was trained on another base model.
        InvalidInputError: pickled or truncated files, a rank outside 1 to 256, missing, extra or
            misshapen tensors, NaN or infinite values; the message says which.
    """
    _refuse_pickles(folder)
    digest = adapter_digest(folder)
    if expected is not None and digest != expected:
        raise DigestMismatchError(f"{folder} holds adapter {digest}, not {expected}")
    config = _read_config(folder / CONFIG)
    if config.revision != base.digest:
        raise ConflictError(
            f"the adapter in {folder} was trained on base model {config.revision or 'unknown'}, "
            f"not on {base.digest}"
        )
    shape = _shape(config, base)
    try:
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise InvalidInputError(
            f"{folder / WEIGHTS} is truncated or no safetensors: {error}"
        ) from error
    return Adapter(shape, base.digest, _pairs(tensors, shape, base))


def tensors_of(adapter: Adapter) -> dict[str, Tensor]:
    """The factors in float32 under PEFT's names."""
    tensors = {}
    for site, pair in adapter.pairs.items():
        tensors[_name(site, "A")] = pair.a.detach().to(torch.float32).contiguous()
        tensors[_name(site, "B")] = pair.b.detach().to(torch.float32).contiguous()
    return tensors


def pairs_of(tensors: dict[str, Tensor], shape: LoraShape) -> dict[Site, LoraPair]:
    """The factors from under PEFT's names; the inverse of `tensors_of`."""
    return {s: LoraPair(tensors[_name(s, "A")], tensors[_name(s, "B")]) for s in shape.sites}


def _name(site: Site, factor: str) -> str:
    return f"{_PREFIX}{site.module}.lora_{factor}.weight"


def _config_json(adapter: Adapter, base_name: str) -> bytes:
    shape = adapter.shape
    config = _PeftConfig(
        base_model_name_or_path=base_name,
        revision=adapter.base,
        r=shape.rank,
        lora_alpha=shape.alpha,
        target_modules=list(shape.targets),
        layers_to_transform=list(shape.layers),
    )
    return msgspec.json.format(msgspec.json.encode(config, order="sorted"))


def _flush(folder: Path) -> None:
    for name in (CONFIG, WEIGHTS):
        with (folder / name).open("rb") as stream:
            os.fsync(stream.fileno())


def _refuse_pickles(folder: Path) -> None:
    pickles = sorted(p.name for p in folder.glob("*") if p.suffix in _PICKLES)
    if pickles:
        raise InvalidInputError(
            f"{folder} holds {', '.join(pickles)}: pickled weights can run code; "
            "save the adapter as safetensors"
        )


def _read_config(path: Path) -> _PeftConfig:
    try:
        config = msgspec.json.decode(path.read_bytes(), type=_PeftConfig)
    except msgspec.MsgspecError as error:
        raise InvalidInputError(f"{path} is no LoRA configuration: {error}") from error
    if config.peft_type != "LORA" or config.bias != "none" or config.use_rslora or config.use_dora:
        raise InvalidInputError(f"{path} is not a plain LoRA: no bias, rslora or dora is supported")
    return config


def _shape(config: _PeftConfig, base: BaseModel) -> LoraShape:
    layers, targets = tuple(config.layers_to_transform), tuple(config.target_modules)
    shape = LoraShape(config.r, config.lora_alpha, layers, targets)
    check_shape(shape, base.layers)
    return shape


def check_shape(shape: LoraShape, base_layers: int) -> None:
    """Refuse what no adapter on a base of so many layers looks like.

    Raises:
        InvalidInputError: rank, alpha, layers or targets are outside their ranges.
    """
    if not 1 <= shape.rank <= MAX_RANK:
        raise InvalidInputError(f"rank {shape.rank} is outside 1 to {MAX_RANK}")
    if not 1 <= shape.alpha <= MAX_ALPHA:
        raise InvalidInputError(f"alpha {shape.alpha} is outside 1 to {MAX_ALPHA}")
    layers, targets = shape.layers, shape.targets
    if not layers or list(layers) != sorted(set(layers)) or layers[0] < 0:
        raise InvalidInputError(f"layers {list(layers)} are not rising numbers from 0")
    if layers[-1] >= base_layers:
        raise InvalidInputError(f"layer {layers[-1]} is outside a base of {base_layers} layers")
    if not targets or len(set(targets)) < len(targets) or not set(targets) <= set(TARGETS):
        raise InvalidInputError(f"targets {list(targets)} are not among {', '.join(TARGETS)}")


def _pairs(tensors: dict[str, Tensor], shape: LoraShape, base: BaseModel) -> dict[Site, LoraPair]:
    wanted = _expected_sizes(shape, base)
    if missing := sorted(wanted.keys() - tensors.keys()):
        raise InvalidInputError(f"{len(missing)} tensors are missing, the first is {missing[0]}")
    if extra := sorted(tensors.keys() - wanted.keys()):
        raise InvalidInputError(f"{len(extra)} tensors are not expected, the first is {extra[0]}")
    for name, size in wanted.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != size:
            raise InvalidInputError(f"{name} has shape {tuple(tensor.shape)}, not {size}")
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise InvalidInputError(f"{name} holds values that are no finite numbers")
    return pairs_of({name: tensor.to(torch.float32) for name, tensor in tensors.items()}, shape)


def _expected_sizes(shape: LoraShape, base: BaseModel) -> dict[str, tuple[int, int]]:
    sizes = {}
    for site in shape.sites:
        linear = linear_at(base.model, site)
        sizes[_name(site, "A")] = (shape.rank, linear.in_features)
        sizes[_name(site, "B")] = (linear.out_features, shape.rank)
    return sizes
