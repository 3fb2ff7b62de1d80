"""One step as arrays: which rows belong to which sequence, and which adapters they get."""

from collections.abc import Sequence

import msgspec
import torch
from torch import Tensor

from openledger.core.errors import InvalidInputError
from openledger.serving.batch import Chunk, Weighted
from openledger.serving.llama.cache import BLOCK
from openledger.serving.llama.packed import PackedAdapter
from openledger.serving.native.library import MOST_MEMBERS

PackedChunk = Chunk[PackedAdapter]
Mix = tuple[Weighted[PackedAdapter], ...]


class Span(msgspec.Struct, frozen=True):
    """The rows of one chunk: consecutive, at consecutive positions."""

    first_row: int
    rows: int
    start: int  # position of the first
    blocks: tuple[int, ...]


class Group(msgspec.Struct, frozen=True):
    """All rows of one mix."""

    mix: Mix
    rows: list[int]


class Step(msgspec.Struct, frozen=True):
    """A batch of T rows."""

    token_ids: Tensor  # (T,) int64
    spans: tuple[Span, ...]
    groups: tuple[Group, ...]  # those of the base alone left out
    wanted: tuple[int, ...]  # rows that want logits, rising


def step_of(chunks: Sequence[PackedChunk], blocks: int, context: int) -> Step:
    """Lay the chunks of a step out one after the other.

    Raises:
        InvalidInputError: there is none, one is empty, goes beyond its blocks or the context, or
            names a block that is not in a cache of so many; or a mix is too long.
    """
    token_ids: list[int] = []
    spans: list[Span] = []
    rows_of: dict[tuple[tuple[int, float], ...], Group] = {}
    wanted: list[int] = []
    for chunk in chunks:
        first, count = len(token_ids), len(chunk.token_ids)
        _check(chunk, blocks, context)
        token_ids += chunk.token_ids
        spans.append(Span(first, count, chunk.start, chunk.blocks))
        if chunk.is_last:
            wanted.append(len(token_ids) - 1)
        if mix := tuple(one for one in chunk.mix if one.weight):
            key = tuple((id(one.adapter), one.weight) for one in mix)
            rows_of.setdefault(key, Group(mix, [])).rows.extend(range(first, first + count))
    if not token_ids:
        raise InvalidInputError("a step needs at least one chunk")
    # Mixes that begin with the same adapter follow each other, so that it stays in the CPU's cache.
    groups = tuple(rows_of[key] for key in sorted(rows_of))
    return Step(torch.tensor(token_ids), tuple(spans), groups, tuple(wanted))


def _check(chunk: PackedChunk, blocks: int, context: int) -> None:
    end = chunk.start + len(chunk.token_ids)
    if not chunk.token_ids or chunk.start < 0 or end > min(context, len(chunk.blocks) * BLOCK):
        raise InvalidInputError(
            f"positions {chunk.start} to {end} are not within {len(chunk.blocks)} blocks of "
            f"{BLOCK} and a context of {context}"
        )
    if len(chunk.mix) > MOST_MEMBERS:
        raise InvalidInputError(
            f"a mix holds at most {MOST_MEMBERS} adapters, not {len(chunk.mix)}"
        )
    if not 0 <= min(chunk.blocks) <= max(chunk.blocks) < blocks:
        raise InvalidInputError(f"blocks {chunk.blocks} are not all among 0 to {blocks - 1}")
