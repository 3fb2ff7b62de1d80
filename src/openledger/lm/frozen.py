"""A model in two halves: layers that no adapter touches, and those above them.

The lower half never changes while adapters do, so its output for a text is computed once and reused
by every epoch, evaluation and attribution. Rows are padded on the right only: with causal
attention no real token ever sees padding, so no mask is needed.
"""

import os
from collections.abc import Callable, Sequence
from hashlib import sha256
from itertools import accumulate
from pathlib import Path

import msgspec
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from openledger.core.encoding import digest_of, encode
from openledger.core.errors import InvalidInputError, full_disk
from openledger.core.types import Digest
from openledger.lm.base import DTYPES, BaseModel
from openledger.lm.families.architecture import CausalModel


class SplitModel:
    """Views on one model, cut below layer `first`; adapters attached to it later are seen."""

    def __init__(self, model: CausalModel, first: int) -> None:
        layers = len(model.model.layers)
        if not 0 <= first <= layers:
            raise InvalidInputError(f"a model of {layers} layers cannot be cut below layer {first}")
        self.model = model
        self.first = first

    @property
    def width(self) -> int:
        """D."""
        return int(self.model.config.hidden_size)

    def lower(self, ids: Tensor) -> Tensor:
        """(B, T) token ids to the (B, T, D) input of layer `first`."""
        hidden: Tensor = self.model.model.embed_tokens(ids)  # (B, T, D)
        return self._run(hidden, 0, self.first)

    def upper(self, hidden: Tensor) -> Tensor:
        """(B, T, D) from `lower` to the (B, T, D) that the head reads: layers above, final norm."""
        top = self._run(hidden, self.first, len(self.model.model.layers))
        normed: Tensor = self.model.model.norm(top)
        return normed

    def head(self, states: Tensor) -> Tensor:
        """(..., D) from `upper` to (..., V) logits."""
        logits: Tensor = self.model.lm_head(states)
        return logits

    def _run(self, hidden: Tensor, start: int, stop: int) -> Tensor:
        places = torch.arange(hidden.shape[1])[None]  # (1, T)
        rotary = self.model.model.rotary_emb(hidden, position_ids=places)
        for layer in self.model.model.layers[start:stop]:
            hidden = layer(hidden, position_embeddings=rotary, position_ids=places)
        return hidden


class CacheKey(msgspec.Struct, frozen=True):
    """What the cached hidden states depend on."""

    base: Digest
    first: int
    dtype: str
    rows: Digest  # of all token ids, in order
    lengths: tuple[int, ...]


class HiddenCache:
    """The lower half's output for a list of rows, memory-mapped from one file.

    `cache[i]` is the (T, D) input of layer `first` for row i.
    """

    def __init__(self, path: Path, key: CacheKey, width: int) -> None:
        size = sum(key.lengths) * width
        values = torch.from_file(str(path), shared=False, size=size, dtype=DTYPES[key.dtype])
        self.key = key
        self._rows = torch.split(values.view(-1, width), list(key.lengths))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> Tensor:
        return self._rows[row]

    def padded(self, rows: Sequence[int]) -> Tensor:
        """(B, T, D) of these rows, padded with zeros on the right to the longest."""
        chosen = [self._rows[row] for row in rows]
        return pad_sequence(chosen, batch_first=True)


@full_disk()
def hidden_cache(
    folder: Path,
    base: BaseModel,
    first: int,
    rows: Sequence[Sequence[int]],
    progress: Callable[[int, int], None] | None = None,
) -> HiddenCache:
    """Open the cache of these rows in `folder`, computing it first unless it is there whole.

    `progress` is told (rows done, rows in all).

    Raises:
        InvalidInputError: no rows, an empty one, or one that is longer than the base's context.
        StorageFullError: the disk is full.
    """
    if not rows or not all(rows):
        raise InvalidInputError("hidden states need at least one row, and no row may be empty")
    if (longest := max(map(len, rows))) > base.context:
        raise InvalidInputError(
            f"a row of {longest} tokens is longer than the base's context of {base.context}; "
            "lower the recipe's max_length"
        )
    split = SplitModel(base.model, first)
    key = cache_key(base, first, rows)
    path = folder / f"hidden-{digest_of(key)[:16]}.bin"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(f".{os.getpid()}.part")
        try:
            _compute(scratch, split, rows, progress)
            path.with_suffix(".json").write_bytes(encode(key))
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)
    return HiddenCache(path, key, split.width)


def forget_caches(folder: Path) -> None:
    """Delete the caches in `folder`; those in use stay readable until they are closed."""
    for path in folder.glob("hidden-*"):
        path.unlink(missing_ok=True)


def cache_key(base: BaseModel, first: int, rows: Sequence[Sequence[int]]) -> CacheKey:
    """Name what a cache of these rows depends on."""
    dtype = str(next(base.model.parameters()).dtype).removeprefix("torch.")
    lines = "\n".join(",".join(map(str, row)) for row in rows)
    return CacheKey(
        base=base.digest,
        first=first,
        dtype=dtype,
        rows=Digest(sha256(lines.encode()).hexdigest()),
        lengths=tuple(len(row) for row in rows),
    )


def batches_by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Places of rows that go through a model together: like lengths, so that little is padding."""
    batches: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: (lengths[place], place)):
        if batches and lengths[place] * (len(batches[-1]) + 1) <= _TOKENS_AT_ONCE:
            batches[-1].append(place)
        else:
            batches.append([place])
    return batches


_TOKENS_AT_ONCE = 1_024  # padding included; wider batches are no faster on a CPU


@torch.no_grad()
def _compute(
    path: Path,
    split: SplitModel,
    rows: Sequence[Sequence[int]],
    progress: Callable[[int, int], None] | None,
) -> None:
    lengths = [len(row) for row in rows]
    starts = [0, *accumulate(lengths)]
    done = 0
    with path.open("wb") as stream:
        for batch in batches_by_length(lengths):
            ids = pad_sequence([torch.tensor(list(rows[row])) for row in batch], batch_first=True)
            hidden = split.lower(ids)  # (B, T, D)
            for row, states in zip(batch, hidden, strict=True):
                raw = states[: lengths[row]].contiguous().view(torch.uint8).numpy().tobytes()
                stream.seek(starts[row] * len(raw) // lengths[row])
                stream.write(raw)
            done += len(batch)
            if progress is not None:
                progress(done, len(rows))
        stream.flush()
        os.fsync(stream.fileno())
