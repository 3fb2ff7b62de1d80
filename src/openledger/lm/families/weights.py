"""Foreign safetensors, in one file or in shards, held against what a configuration promises.

Files of pickles are never opened. Tensors stay on disk until they are looked at, one by one.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from openledger.core.errors import InvalidInputError, NotFoundError
from openledger.lm.base import WEIGHTS
from openledger.lm.families.architecture import HEAD, CausalConfig, empty_model
from openledger.lm.families.files import read_json, read_limited

INDEX = "model.safetensors.index.json"

_LARGEST_INDEX_BYTES = 64 << 20
_SHARD = re.compile(r"[A-Za-z0-9][\w.-]*\.safetensors")
_EMBEDDING = "model.embed_tokens.weight"
# Old files hold tables that follow from the configuration.
_IGNORED = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")
_PRECISIONS = (torch.bfloat16, torch.float16, torch.float32)
_AT_ONCE = 1 << 24  # numbers that are looked at together


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors of a foreign folder, in order of their names.

    Raises:
        NotFoundError: there are none, or one that the index names is missing.
        InvalidInputError: an index that is none.
    """
    index = folder / INDEX
    names = _shards(index) if index.is_file() else [WEIGHTS]
    files = tuple(folder / name for name in names)
    for path in files:
        if not path.is_file():
            raise NotFoundError(
                f"{path} is missing: weights are read from safetensors, never from pickles "
                "(.bin, .pt); convert them with transformers where they come from"
            )
    return files


def read_weights(files: tuple[Path, ...], config: CausalConfig) -> dict[str, Tensor]:
    """All tensors, checked and in one precision; a tied head is left out.

    They are mapped into memory, and read as they are looked at.

    Raises:
        InvalidInputError: damaged files; missing, extra or misshapen tensors; numbers that are not
            finite; the message says which.
    """
    try:
        found: dict[str, Tensor] = {}
        for path in files:
            fresh = dict(_tensors(path))
            if twice := sorted(fresh.keys() & found.keys()):
                raise InvalidInputError(f"{twice[0]} stands in two files")
            found |= fresh
        _check_names(found, config)
        for name, tensor in found.items():
            _check_numbers(name, tensor)
    except (SafetensorError, OSError) as error:
        raise InvalidInputError(f"the weights are truncated or no safetensors: {error}") from error
    if config.tie_word_embeddings and HEAD in found:
        if not torch.equal(found[HEAD], found[_EMBEDDING]):
            raise InvalidInputError(
                f"config.json ties the head to the embedding, {HEAD} is another"
            )
        del found[HEAD]
    dtype = _widest({tensor.dtype for tensor in found.values()})
    return {name: tensor.to(dtype) for name, tensor in found.items()}


def _shards(index: Path) -> list[str]:
    content = read_limited(index, _LARGEST_INDEX_BYTES)
    names = set(read_json(content, _Index, index.name).weight_map.values())
    if wrong := sorted(name for name in names if not _SHARD.fullmatch(name)):
        raise InvalidInputError(
            f"{index.name} names {wrong[0]!r}, which is no safetensors beside it"
        )
    if not names:
        raise InvalidInputError(f"{index.name} names no file")
    return sorted(names)


class _Index(msgspec.Struct, frozen=True):
    weight_map: dict[str, str]


def _tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - it is no mapping
            if not _IGNORED.fullmatch(name):
                yield name, file.get_tensor(name)


def _check_names(found: Mapping[str, Tensor], config: CausalConfig) -> None:
    wanted = {name: one.shape for name, one in empty_model(config).state_dict().items()}
    optional = {HEAD} if config.tie_word_embeddings else set()
    if missing := sorted(wanted.keys() - found.keys() - optional):
        raise InvalidInputError(f"{len(missing)} tensors are missing, the first is {missing[0]}")
    if extra := sorted(found.keys() - wanted.keys()):
        raise InvalidInputError(f"{len(extra)} tensors are not expected, the first is {extra[0]}")
    for name, tensor in found.items():
        if tensor.shape != wanted[name]:
            raise InvalidInputError(
                f"{name} has shape {tuple(tensor.shape)}, the configuration says "
                f"{tuple(wanted[name])}"
            )
        if tensor.dtype not in _PRECISIONS:
            raise InvalidInputError(f"{name} is stored as {tensor.dtype}, not in 16 or 32 bits")


def _check_numbers(name: str, tensor: Tensor) -> None:
    for part in torch.split(tensor.flatten(), _AT_ONCE):
        if not bool(torch.isfinite(part).all()):
            raise InvalidInputError(f"{name} holds values that are no finite numbers")


def _widest(dtypes: set[torch.dtype]) -> torch.dtype:
    """The narrowest precision that holds numbers of all of these exactly."""
    first, *others = sorted(dtypes, key=str)
    for other in others:
        first = torch.promote_types(first, other)
    return first
