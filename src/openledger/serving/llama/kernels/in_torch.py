"""The kernels in torch, for machines without a C compiler.

Adapters are taken one after the other, each for all of its rows. Results are those of the kernels
in C but for rounding; here a row's bits may depend on the rows beside it.
"""

from collections import defaultdict
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from openledger.serving.llama.cache import BLOCK, PagedCache
from openledger.serving.llama.packed import PackedAdapter
from openledger.serving.llama.rotary import Rotary
from openledger.serving.llama.shape import LlamaShape, Matrix
from openledger.serving.llama.step import Span, Step


class TorchKernels:
    """See `Kernels`."""

    def __init__(self, shape: LlamaShape, rotary: Rotary, cache: PagedCache) -> None:
        self._shape = shape
        self._rotary = rotary
        self._cache = cache

    def begin(self, step: Step) -> None:
        self._step = step
        spans = step.spans
        self._positions = torch.cat([torch.arange(s.start, s.start + s.rows) for s in spans])
        places = [s.blocks[p // BLOCK] for s in spans for p in range(s.start, s.start + s.rows)]
        self._blocks = torch.tensor(places)
        single = [span for span in spans if span.rows == 1]
        self._batches = [single] if single else []
        self._batches += [[span] for span in spans if span.rows > 1]

    def norm(self, residual: Tensor, added: Tensor | None, weight: Tensor) -> Tensor:
        if added is not None:
            residual += added
        normed = F.rms_norm(residual, weight.shape, weight, self._shape.epsilon)
        return normed.to(self._cache.keys.dtype)

    def gate(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.float().chunk(2, dim=1)
        return (F.silu(gate) * up).to(gate_up.dtype)

    def attend(self, layer: int, qkv: Tensor) -> Tensor:
        shape = self._shape
        heads = qkv.view(len(qkv), -1, shape.head_dim)
        counts = [shape.heads, shape.kv_heads, shape.kv_heads]
        queries, keys, values = torch.split(heads, counts, dim=1)
        slots = self._positions % BLOCK
        cached = self._cache.keys[layer], self._cache.values[layer]
        cached[0][self._blocks, :, :, slots] = self._rotated(keys)
        cached[1][self._blocks, :, slots, : shape.head_dim] = values
        queries = self._rotated(queries)
        out = torch.empty_like(queries)
        for spans in self._batches:
            rows = slice(spans[0].first_row, spans[0].first_row + spans[0].rows)
            at = rows if len(spans) == 1 else torch.tensor([span.first_row for span in spans])
            out[at] = self._attended(queries[at], spans, cached)
        return out.view(len(qkv), -1)

    def adapt(self, layer: int, matrix: Matrix, x: Tensor, y: Tensor) -> None:
        site = self._shape.sites[matrix]
        added = torch.zeros(y.shape)
        for adapter, terms in self._terms().items():
            rows = torch.tensor([row for row, _ in terms])
            weights = torch.tensor([weight for _, weight in terms])[:, None]
            taken, column = x[rows].float(), 0
            for target, out in zip(site.targets, site.out, strict=True):
                if adapter.has(layer, target):
                    a, b = adapter.factors(layer, target, site.width, out)
                    delta = taken @ a.float().T * weights @ b.float().T
                    added[:, column : column + out].index_add_(0, rows, delta)
                column += out
        y += added

    def _terms(self) -> dict[PackedAdapter, list[tuple[int, float]]]:
        terms: defaultdict[PackedAdapter, list[tuple[int, float]]] = defaultdict(list)
        for group in self._step.groups:
            for one in group.mix:
                weight = one.weight * one.adapter.lora.scale
                terms[one.adapter] += [(row, weight) for row in group.rows]
        return terms

    def _rotated(self, heads: Tensor) -> Tensor:
        cosines = self._rotary.cosines[self._positions, None]  # (T, 1, head_dim / 2)
        sines = self._rotary.sines[self._positions, None]
        real, imaginary = heads.float().chunk(2, dim=-1)
        turned = (real * cosines - imaginary * sines, imaginary * cosines + real * sines)
        return torch.cat(turned, -1).to(heads.dtype)

    def _attended(
        self, queries: Tensor, spans: Sequence[Span], cached: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Queries (S * T, H, head_dim) of S spans of T rows each, to the same shape."""
        shape, count, rows = self._shape, len(spans), spans[0].rows
        used = [-(-(span.start + rows) // BLOCK) for span in spans]
        tables = torch.zeros(count, max(used), dtype=torch.int64)
        for table, span, blocks in zip(tables, spans, used, strict=True):
            table[:blocks] = torch.tensor(span.blocks[:blocks])
        keys = cached[0][tables].permute(0, 2, 3, 1, 4)  # (S, kv_heads, head_dim, blocks, BLOCK)
        keys = keys.reshape(count, shape.kv_heads, shape.head_dim, -1)
        values = cached[1][tables].permute(0, 2, 1, 3, 4)[..., : shape.head_dim]
        values = values.reshape(count, shape.kv_heads, -1, shape.head_dim)
        own = queries.view(count, rows, shape.kv_heads, -1, shape.head_dim).transpose(1, 2)
        asked = own.reshape(count, shape.kv_heads, -1, shape.head_dim)
        starts = torch.tensor([span.start for span in spans])[:, None] + torch.arange(rows)
        places = torch.arange(keys.shape[-1])
        # A mask hides numbers, but not NaN: what another sequence left in a block must not be read.
        is_other = places >= starts[:, -1:] + 1  # (S, keys)
        keys = keys.masked_fill(is_other[:, None, None], 0.0)
        values = values.masked_fill(is_other[:, None, :, None], 0.0)
        seen = places <= starts[..., None]  # (S, T, keys)
        mask = seen.repeat_interleave(own.shape[3], dim=1)[:, None]
        out = F.scaled_dot_product_attention(asked, keys.transpose(2, 3), values, attn_mask=mask)
        return out.view(own.shape).transpose(1, 2).reshape(queries.shape)
