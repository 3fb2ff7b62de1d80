"""One request inside the embedded engine: what it still has to feed, and what became of it.

The prompt and the answer are one row of tokens. Whatever of it is not in the KV cache yet is fed,
in pieces; after its last token one more is drawn and put behind it.
"""

from typing import Generic

import numpy as np
from numpy.typing import NDArray

from openledger.core.errors import OpenLedgerError
from openledger.core.types import Digest
from openledger.serving.batch import Chunk, Loaded, Weighted
from openledger.serving.request import Finish, GenerationRequest, MixMember, Usage
from openledger.serving.sampling import Sampler
from openledger.serving.schedule.blocks import BlockPool, BlockTable, root_key
from openledger.serving.stream import TokenStream


class Sequence(Generic[Loaded]):
    """One request's progress; what other threads touch is under the engine's lock."""

    def __init__(
        self, request: GenerationRequest, stream: TokenStream, submitted_s: float, context: int
    ) -> None:
        self.request = request
        self.stream = stream
        self.is_cancelled = False
        self.mix: tuple[Weighted[Loaded], ...] | None = None  # None: not held in memory
        self.is_reading = False  # its adapters are being read
        self.refused_at: int | None = None  # there was no room for them; `AdapterStore.freed` then
        self.load_s = 0.0
        self.passed_since_s: float | None = None  # its turn came, and others went first
        self.paused_since_s: float | None = None
        self.made = 0
        self.steps = 0
        self.prefill_s = 0.0
        self.decode_s = 0.0
        self._submitted_s = submitted_s
        self._started_s: float | None = None
        self._most = min(len(request.prompt_ids) + request.max_tokens, context)
        self._sampler = Sampler(request.sampling, request.prompt_ids)
        self._tokens = list(request.prompt_ids)
        self._table: BlockTable | None = None

    @property
    def members(self) -> tuple[MixMember, ...]:
        """The adapters that make a difference."""
        return tuple(member for member in self.request.mix if member.weight)

    @property
    def named(self) -> tuple[Digest, ...]:
        """All adapters that the request names."""
        return tuple(member.adapter for member in self.request.mix)

    @property
    def left(self) -> int:
        """Tokens to feed before the next one can be drawn."""
        return len(self._tokens) - self.cached

    @property
    def cached(self) -> int:
        """Tokens in the KV cache."""
        return 0 if self._table is None else self._table.tokens

    @property
    def reused(self) -> int:
        """Prompt tokens that were found in the KV cache."""
        return 0 if self._table is None else self._table.reused

    def start(self, pool: BlockPool, now_s: float) -> bool:
        """Reserve all the blocks it may need; whether there was room."""
        root = root_key(self.request.tenant, self.members)
        # The last token of an answer is never fed.
        self._table = pool.open(root, self._tokens, self._most - 1)
        if self._table is None:
            return False
        self._started_s = now_s
        return True

    def why_stop(self, now_s: float, slow_reader_s: float) -> Finish | None:
        """A reason from outside to end before the next step."""
        if self.is_cancelled:
            return Finish.CANCELLED
        if now_s - self._submitted_s >= self.request.deadline_s:
            return Finish.DEADLINE
        if self.stream.has_room():
            self.paused_since_s = None
        elif self.paused_since_s is None:
            self.paused_since_s = now_s
        elif now_s - self.paused_since_s >= slow_reader_s:
            return Finish.SLOW_READER
        return None

    def chunk(self, most: int, block_tokens: int) -> Chunk[Loaded] | None:
        """What to feed next, at most so many tokens; None: too few to fill a block.

        A piece that is not the last ends with a block, so that the next one can be found ready.
        """
        assert self._table is not None
        assert self.mix is not None
        # Others may have read the same prompt meanwhile.
        self._table.reuse(self._tokens[self.cached :])
        start = self.cached
        end = start + most
        if end < len(self._tokens):
            end -= end % block_tokens
        if end <= start:
            return None
        token_ids = tuple(self._tokens[start:end])
        return Chunk(
            blocks=self._table.grow(len(token_ids)),
            start=start,
            token_ids=token_ids,
            mix=self.mix,
            is_last=start + len(token_ids) == len(self._tokens),
        )

    def take(self, chunk: Chunk[Loaded], logits: NDArray[np.float32] | None) -> Finish | None:
        """Note that a chunk is in the cache, and draw from (V,) logits if it was the last."""
        assert self._table is not None
        self._table.written(chunk.token_ids)
        if logits is None:
            return None
        token = self._sampler.draw(logits)
        if token.id in self.request.stop_ids:
            return Finish.STOP
        self.stream.put(token)
        self.made += 1
        self._tokens.append(token.id)
        return Finish.LENGTH if len(self._tokens) >= self._most else None

    def account(self, chunk: Chunk[Loaded], seconds: float) -> None:
        """Its part of a step's time."""
        self.steps += 1
        if chunk.start < len(self.request.prompt_ids):
            self.prefill_s += seconds
        else:
            self.decode_s += seconds

    def end(self, finish: Finish, now_s: float, error: OpenLedgerError | None) -> Usage:
        """Close the stream and let the blocks go."""
        usage = self._usage(finish, now_s)
        if self._table is not None:
            self._table.close()
            self._table = None
        self.stream.end(usage, error)
        return usage

    def _usage(self, finish: Finish, now_s: float) -> Usage:
        return Usage(
            prompt_tokens=len(self.request.prompt_ids),
            completion_tokens=self.made,
            steps=self.steps,
            queue_s=(now_s if self._started_s is None else self._started_s) - self._submitted_s,
            load_s=self.load_s,
            prefill_s=self.prefill_s,
            decode_s=self.decode_s,
            finish=finish,
            cached_tokens=self.reused,
        )
