"""The embedded engine's arithmetic: one resident Llama, its adapters set for each step.

The engine's thread owns the model: between two steps any other mix may be set on it. Adapters stay
in float32 and are added as functions, so a mix is exact and never copies the base.
"""

from collections import Counter
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
from openledger.serving.engine import AdapterRef
from openledger.serving.sequence import Weighted


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
        self._users: Counter[Digest] = Counter()

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

    def prepare(self, threads: int) -> None:
        torch.set_num_threads(threads)

    def read(self, ref: AdapterRef) -> ResidentAdapter:
        return ResidentAdapter(ref.digest, load_adapter(ref.path, self._base, ref.digest))

    def open(self, mix: Sequence[Weighted[ResidentAdapter]]) -> "LlamaDecoder":
        for one in mix:
            self._host.add(one.adapter.digest, one.adapter.adapter)
            self._users[one.adapter.digest] += 1
        return LlamaDecoder(self, [lora.MixMember(one.adapter.digest, one.weight) for one in mix])

    @torch.inference_mode()
    def forward(
        self, mix: Sequence[lora.MixMember], token_ids: Sequence[int], cache: DynamicCache
    ) -> NDArray[np.float32]:
        """Append tokens to a cache under a mix; (V,) logits after the last."""
        if self._host.mix != tuple(mix):
            self._host.set_mix(mix)
        tokens = torch.tensor([list(token_ids)])  # (1, T)
        out = self._host.model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits: NDArray[np.float32] = out.logits[0, -1].float().numpy()  # (V,)
        return logits

    def leave(self, mix: Sequence[lora.MixMember]) -> None:
        """Let go of the adapters that no open decoder uses any more."""
        self._host.set_mix(())
        for member in mix:
            self._users[member.adapter] -= 1
            if not self._users[member.adapter]:
                self._host.remove(member.adapter)


class LlamaDecoder:
    """One sequence's KV cache and mix."""

    def __init__(self, runner: LlamaRunner, mix: Sequence[lora.MixMember]) -> None:
        self._runner = runner
        self._mix = mix
        self._cache = DynamicCache()

    def feed(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        return self._runner.forward(self._mix, token_ids, self._cache)

    def close(self) -> None:
        self._runner.leave(self._mix)
