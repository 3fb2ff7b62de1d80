"""The kernels in C, see `native`."""

from collections.abc import Sequence
from ctypes import addressof, byref

import numpy as np
import torch
from torch import Tensor

from openledger.serving.llama.cache import BLOCK, PagedCache, head_stride
from openledger.serving.llama.quads import QUAD, TILE
from openledger.serving.llama.rotary import Rotary
from openledger.serving.llama.shape import LlamaShape, Matrix, Site
from openledger.serving.llama.step import Group, Span, Step
from openledger.serving.native.library import (
    QUERIES_AT_ONCE,
    ROWS_AT_ONCE,
    STREAMS,
    AdapterPlan,
    ChunkPlan,
    HeadsRecord,
    Native,
    SiteRecord,
)

_ADDRESSES = ("quads", "offsets", "uppers", "first_stray", "strays")
_ENTRY = np.dtype([*((name, "u8") for name in _ADDRESSES), ("rank", "i4"), ("weight", "f4")])


class CKernels:
    """See `Kernels`. A row's bits do not depend on what else is in the batch."""

    def __init__(
        self, native: Native, threads: int, shape: LlamaShape, rotary: Rotary, cache: PagedCache
    ) -> None:
        self._library = native.library
        self._path = native.path
        self._threads = threads if native.library.has_threads else 1
        self._shape = shape
        self._rotary = rotary
        self._dtype = cache.keys.dtype
        self._is_bf16 = int(self._dtype == torch.bfloat16)
        self._heads = _heads(shape, rotary, self._is_bf16)
        self._sites = tuple(_site(site) for site in shape.sites)
        self._keys = [cache.keys[layer].data_ptr() for layer in range(shape.layers)]
        self._values = [cache.values[layer].data_ptr() for layer in range(shape.layers)]
        self._cache = cache  # the addresses above are within it
        self._site_addresses = [addressof(site) for site in self._sites]
        self._groups: tuple[Group, ...] = ()

    def begin(self, step: Step) -> None:
        self._chunks = _Chunks(step.spans, self._shape, self._threads)
        if step.groups != self._groups:  # answers go on for many steps
            if step.groups:
                self._adapters = _Adapters(step.groups, self._shape, self._threads, self._is_bf16)
            self._groups = step.groups

    def norm(self, residual: Tensor, added: Tensor | None, weight: Tensor) -> Tensor:
        rows, width = residual.shape
        normed = torch.empty(rows, width, dtype=self._dtype)
        self._library.norm(
            *(self._path, rows, width, self._shape.epsilon, residual.data_ptr()),
            None if added is None else added.data_ptr(),
            *(weight.data_ptr(), normed.data_ptr(), self._is_bf16),
        )
        return normed

    def gate(self, gate_up: Tensor) -> Tensor:
        rows, width = len(gate_up), gate_up.shape[1] // 2
        out = torch.empty(rows, width, dtype=self._dtype)
        self._library.gate(
            self._path, rows, width, gate_up.data_ptr(), out.data_ptr(), self._is_bf16
        )
        return out

    def attend(self, layer: int, qkv: Tensor) -> Tensor:
        out = torch.empty(len(qkv), self._shape.heads * self._shape.head_dim, dtype=self._dtype)
        common = (self._path, byref(self._heads), byref(self._chunks.record))
        keys, values, at = self._keys[layer], self._values[layer], qkv.data_ptr()
        self._library.rotate(*common, at, keys, values)
        self._library.attend(*common, at, keys, values, out.data_ptr())
        return out

    def adapt(self, layer: int, matrix: Matrix, x: Tensor, y: Tensor) -> None:
        if self._groups:
            plan, site = self._adapters.address, self._site_addresses[matrix]
            self._library.lora(self._path, plan, site, layer, x.data_ptr(), y.data_ptr())


class _Chunks:
    """A `ChunkPlan` and the arrays it points to."""

    def __init__(self, spans: tuple[Span, ...], shape: LlamaShape, threads: int) -> None:
        used = [-(-(span.start + span.rows) // BLOCK) for span in spans]
        tables = [block for s, count in zip(spans, used, strict=True) for block in s.blocks[:count]]
        columns = (
            [span.first_row for span in spans],
            [span.rows for span in spans],
            [span.start for span in spans],
            np.cumsum([0, *used[:-1]]),
            tables,
        )
        self._arrays = [np.array(column, np.int32) for column in columns]
        each = QUERIES_AT_ONCE * (head_stride(shape) + max(used) * BLOCK)
        self._scratch = np.empty(threads * each, np.float32)
        self.record = ChunkPlan(
            *(len(spans), threads, *(array.ctypes.data for array in self._arrays)),
            *(self._scratch.ctypes.data, each),
        )


class _Adapters:
    """An `AdapterPlan` and the arrays it points to."""

    def __init__(
        self, groups: tuple[Group, ...], shape: LlamaShape, threads: int, is_bf16: int
    ) -> None:
        rows, row_start, entries, entry_start = [], [0], [], [0]
        for group in groups:
            own = [
                (*one.adapter.addresses, one.adapter.rank, one.weight * one.adapter.lora.scale)
                for one in group.mix
            ]
            for first in range(0, len(group.rows), ROWS_AT_ONCE):
                rows += group.rows[first : first + ROWS_AT_ONCE]
                row_start.append(len(rows))
                entries += own
                entry_start.append(len(entries))
        part_start = _parts(np.diff(entry_start).tolist(), threads)
        columns = (part_start, row_start, rows, entry_start)
        self._columns = [np.array(column, np.int32) for column in columns]
        self._entries = np.array(entries, _ENTRY)
        products = np.cumsum([0, *(-(-self._entries["rank"] // QUAD) * QUAD)])
        most = np.diff(products[np.take(entry_start, part_start)]).max()
        widest = max(-(-site.width // TILE) * TILE for site in shape.sites)
        each = int(ROWS_AT_ONCE * (STREAMS * widest + most))
        self._scratch = np.empty(threads * each, np.float32)
        self.record = AdapterPlan(
            *(len(part_start) - 1, threads, *(array.ctypes.data for array in self._columns)),
            *(self._entries.ctypes.data, self._scratch.ctypes.data, each, is_bf16),
        )
        self.address = addressof(self.record)


def _parts(entries: Sequence[int], threads: int) -> list[int]:
    """Where the parts of a plan begin, and where the last one ends.

    Tiles with one entry each share a part, unless that leaves a thread without one; others are
    alone in theirs.

    Args:
        entries: of each tile.
        threads: that take a part at a time.
    """
    starts, most = [0], min(STREAMS, -(-len(entries) // threads))
    for tile in range(1, len(entries)):
        if tile - starts[-1] == most or entries[tile - 1] > 1 or entries[tile] > 1:
            starts.append(tile)
    return [*starts, len(entries)]


def _heads(shape: LlamaShape, rotary: Rotary, is_bf16: int) -> HeadsRecord:
    return HeadsRecord(
        *(shape.heads, shape.kv_heads, shape.head_dim, head_stride(shape), is_bf16),
        *(rotary.cosines.data_ptr(), rotary.sines.data_ptr()),
    )


def _site(site: Site) -> SiteRecord:
    record = SiteRecord(site.first_target, len(site.targets), site.width, sum(site.out))
    column = 0
    for place, out in enumerate(site.out):
        record.out[place], record.column[place] = out, column
        column += out
    return record
