"""One request inside the embedded engine: what it still has to feed, and what became of it.

Whatever of its tokens is not in the KV cache yet is fed, in pieces. The prompt and the answer are
one row of tokens: after the last one more is drawn and put behind it. Of a text to embed the final
hidden states are added up as they come, and nothing is drawn.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, Generic

import msgspec
import numpy as np
from numpy.typing import NDArray

from openledger.core.errors import EngineFaultError, OpenLedgerError
from openledger.core.types import Digest
from openledger.serving.batch import Capture, Captured, Chunk, Loaded, Weighted
from openledger.serving.request import (
    EmbeddingRequest,
    Finish,
    GenerationRequest,
    MixMember,
    Token,
    Usage,
)
from openledger.serving.sampling import Sampler
from openledger.serving.schedule.blocks import BlockPool, BlockTable, Key, root_key
from openledger.serving.stream import TokenStream, VectorStream


class Found(msgspec.Struct, frozen=True):
    """What the runner made of one chunk."""

    logits: NDArray[np.float32] | None  # (V,) if they were wanted
    captured: Captured | None = None  # (D,) if it was wanted


class Sequence(ABC, Generic[Loaded]):
    """One request's progress; what other threads touch is under the engine's lock."""

    is_answer: ClassVar[bool]  # whether tokens are drawn
    request: GenerationRequest | EmbeddingRequest
    stream: TokenStream | VectorStream

    def __init__(
        self,
        request: GenerationRequest | EmbeddingRequest,
        stream: TokenStream | VectorStream,
        submitted_s: float,
        most: int,
    ) -> None:
        """`most` is how many tokens it may come to, prompt included."""
        self.request = request
        self.stream = stream
        self.is_cancelled = False
        self.mix: tuple[Weighted[Loaded], ...] | None = None  # None: not held in memory
        self.is_reading = False  # its adapters are being read
        self.was_awaited = False  # a step was put off for that
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
        self._most = most
        self._capture = Capture.NONE
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
        # The last token of an answer is never fed.
        most_fed = self._most - 1 if self.is_answer else self._most
        self._table = pool.open(self._root(), self._tokens, most_fed)
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
        is_last = self.is_answer and start + len(token_ids) == len(self._tokens)
        return Chunk(
            blocks=self._table.grow(len(token_ids)),
            start=start,
            token_ids=token_ids,
            mix=self.mix,
            is_last=is_last,
            capture=self._capture,
        )

    def take(self, chunk: Chunk[Loaded], found: Found) -> Finish | None:
        """Note that a chunk is in the cache, and use what was made of it; why it ends, if so."""
        assert self._table is not None
        self._table.written(chunk.token_ids)
        return self._use(found)

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

    @abstractmethod
    def _root(self) -> Key | None:
        """Under which its blocks are found; None: by nobody."""

    @abstractmethod
    def _use(self, found: Found) -> Finish | None: ...


class AnswerSequence(Sequence[Loaded]):
    """An answer that is being made."""

    is_answer = True
    request: GenerationRequest
    stream: TokenStream

    def __init__(
        self, request: GenerationRequest, stream: TokenStream, submitted_s: float, context: int
    ) -> None:
        most = min(len(request.prompt_ids) + request.max_tokens, context)
        super().__init__(request, stream, submitted_s, most)
        self._sampler = Sampler(request.sampling, request.prompt_ids)
        if request.keeps_hidden:
            self._capture = Capture.LAST

    def _root(self) -> Key:
        return root_key(self.request.tenant, self.members)

    def _use(self, found: Found) -> Finish | None:
        if found.logits is None:
            return None
        token = self._sampler.draw(found.logits)
        if token.id in self.request.stop_ids:
            return Finish.STOP
        if found.captured is not None:
            hidden = found.captured.astype("<u2", copy=False).tobytes()
            token = Token(token.id, token.logprob, hidden)
        self.stream.put(token)
        self.made += 1
        self._tokens.append(token.id)
        return Finish.LENGTH if len(self._tokens) >= self._most else None


class EmbeddingSequence(Sequence[Loaded]):
    """A text that is read for the mean of its final hidden states.

    All of them are needed, so nothing of it is taken from the cache, nor left there.
    """

    is_answer = False
    request: EmbeddingRequest
    stream: VectorStream

    def __init__(self, request: EmbeddingRequest, stream: VectorStream, submitted_s: float) -> None:
        super().__init__(request, stream, submitted_s, len(request.prompt_ids))
        self._capture = Capture.SUM
        self._sum = np.zeros(1)  # (D,) float64, so that it is the same in whatever pieces

    def _root(self) -> None:
        return None

    def _use(self, found: Found) -> Finish | None:
        assert found.captured is not None
        self._sum = self._sum + found.captured
        if self.left:
            return None
        # The mean and the sum point the same way.
        length = float(np.linalg.norm(self._sum))
        if not 0 < length < np.inf:
            raise EngineFaultError("the mean of the hidden states has no direction")
        self.stream.put((self._sum / length).astype(np.float32))
        return Finish.STOP
