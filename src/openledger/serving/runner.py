"""The embedded engine's arithmetic: one resident Llama, its adapters set for each step.

The engine's thread owns the model: between two steps any other mix may be set on it. Adapters stay
in float32 and are added as functions, so a mix is exact and never copies the base.
"""

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from openledger.core.types import Digest
from openledger.lm import lora
from openledger.lm.base import BaseModel
from openledger.lm.checkpoint import MAX_RANK, load_adapter
from openledger.serving.batch import Chunk, Weighted
from openledger.serving.engine import AdapterRef

_BLOCK_TOKENS = 16


class ResidentAdapter(msgspec.Struct, frozen=True):
    """A checked adapter in memory."""

    digest: Digest
    adapter: lora.Adapter

    @property
    def rank(self) -> int:
        return self.adapter.shape.rank

    @property
    def size_bytes(self) -> int:
        factors = [t for pair in self.adapter.pairs.values() for t in (pair.a, pair.b)]
        return sum(factor.nbytes for factor in factors)


class LlamaRunner:
    """Runs sequences on one base model, which nobody else may use meanwhile."""

    def __init__(self, base: BaseModel) -> None:
        self._base = base
        self._host = lora.LoraHost(base.model, base.digest)

    @property
    def base(self) -> Digest:
        return self._base.digest

    @property
    def context(self) -> int:
        return int(self._base.model.config.max_position_embeddings)

    @property
    def vocabulary(self) -> int:
        return int(self._base.model.config.vocab_size)

    @property
    def dtype(self) -> str:
        return str(self._base.model.dtype).removeprefix("torch.")

    @property
    def max_rank(self) -> int | None:
        return MAX_RANK

    @property
    def block_tokens(self) -> int:
        return _BLOCK_TOKENS

    @property
    def block_bytes(self) -> int:
        return 2 * _BLOCK_TOKENS * math.prod(self._place) * int(self._base.model.dtype.itemsize)

    def prepare(self, threads: int, blocks: int) -> None:
        torch.set_num_threads(threads)
        layers, heads, width = self._place
        shape = (layers, blocks, _BLOCK_TOKENS, heads, width)
        self._keys = torch.zeros(shape, dtype=self._base.model.dtype)
        self._values = torch.zeros_like(self._keys)

    def read(self, ref: AdapterRef) -> ResidentAdapter:
        return ResidentAdapter(ref.digest, load_adapter(ref.path, self._base, ref.digest))

    @torch.inference_mode()
    def run(self, chunks: Sequence[Chunk[ResidentAdapter]]) -> NDArray[np.float32]:
        """Chunk by chunk."""
        rows = [self._feed(chunk) for chunk in chunks]
        wanted = [row for row, chunk in zip(rows, chunks, strict=True) if chunk.is_last]
        return np.array(wanted, np.float32).reshape(-1, self.vocabulary)

    @property
    def _place(self) -> tuple[int, int, int]:
        """Layers, heads of keys and values, width of one."""
        config = self._base.model.config
        width = config.hidden_size // config.num_attention_heads
        return config.num_hidden_layers, config.num_key_value_heads, width

    def _feed(self, chunk: Chunk[ResidentAdapter]) -> NDArray[np.float32]:
        self._set(chunk.mix)
        cache = DynamicCache()
        held = [part[:, list(chunk.blocks)].flatten(1, 2) for part in (self._keys, self._values)]
        for layer in range(len(self._keys)):  # held: (L, T, H, width)
            keys, values = (part[layer, : chunk.start].transpose(0, 1)[None] for part in held)
            cache.update(keys, values, layer)
        tokens = torch.tensor([chunk.token_ids])  # (1, T)
        out = self._host.model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
        positions = torch.arange(chunk.start, chunk.start + len(chunk.token_ids))
        blocks = torch.tensor(chunk.blocks)[positions // _BLOCK_TOKENS]
        for layer, one in enumerate(cache.layers):
            for part, fresh in ((self._keys, one.keys), (self._values, one.values)):
                part[layer, blocks, positions % _BLOCK_TOKENS] = fresh[
                    0, :, chunk.start :
                ].transpose(0, 1)
        logits: NDArray[np.float32] = out.logits[0, -1].float().numpy()  # (V,)
        return logits

    def _set(self, mix: Sequence[Weighted[ResidentAdapter]]) -> None:
        members = tuple(lora.MixMember(one.adapter.digest, one.weight) for one in mix)
        if self._host.mix == members:
            return
        self._host.set_mix(())
        for gone in self._host.adapters - {member.adapter for member in members}:
            self._host.remove(gone)
        for one in mix:
            if one.adapter.digest not in self._host.adapters:
                self._host.add(one.adapter.digest, one.adapter.adapter)
        self._host.set_mix(members)
