"""The kernels in C, see `native`."""

from ctypes import byref

import numpy as np
import torch
from torch import Tensor

from openledger.serving.llama.cache import BLOCK, PagedCache, head_stride
from openledger.serving.llama.packed import TILE
from openledger.serving.llama.rotary import Rotary
from openledger.serving.llama.shape import LlamaShape, Matrix, Site
from openledger.serving.llama.step import Group, Span, Step
from openledger.serving.native.library import (
    QUERIES_AT_ONCE,
    ROWS_AT_ONCE,
    TARGETS_AT_ONCE,
    AdapterPlan,
    ChunkPlan,
    HeadsRecord,
    Native,
    SiteRecord,
)

_ENTRY = np.dtype([("base", "u8"), ("offsets", "u8"), ("rank", "i4"), ("weight", "f4")])


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

    def begin(self, step: Step) -> None:
        self._chunks = _Chunks(step.spans, self._shape, self._threads)
        self._adapters = None
        if step.groups:
            self._adapters = _Adapters(step.groups, self._shape, self._threads, self._is_bf16)

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
        if self._adapters is not None:
            plan, site = byref(self._adapters.record), byref(self._sites[matrix])
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
                (
                    *(one.adapter.body.ctypes.data, one.adapter.offsets.ctypes.data),
                    *(one.adapter.rank, one.weight * one.adapter.lora.scale),
                )
                for one in group.mix
            ]
            for first in range(0, len(group.rows), ROWS_AT_ONCE):
                rows += group.rows[first : first + ROWS_AT_ONCE]
                row_start.append(len(rows))
                entries += own
                entry_start.append(len(entries))
        self._groups = groups  # the adapters live as long as this
        self._columns = [np.array(column, np.int32) for column in (row_start, rows, entry_start)]
        self._entries = np.array(entries, _ENTRY)
        most = max(sum(one.adapter.rank for one in group.mix) for group in groups)
        widest = max(-(-site.width // TILE) * TILE for site in shape.sites)
        each = ROWS_AT_ONCE * (widest + TARGETS_AT_ONCE * most)
        self._scratch = np.empty(threads * each, np.float32)
        self.record = AdapterPlan(
            *(len(row_start) - 1, threads, *(array.ctypes.data for array in self._columns)),
            *(self._entries.ctypes.data, self._scratch.ctypes.data, each, is_bf16),
        )


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
