"""One request inside the embedded engine: what it still has to do, one step at a time.

The arithmetic is behind `Runner`, so that scheduling can be read and tested without it.
"""

import time
from collections.abc import Sequence as Items
from typing import Generic, Protocol, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from openledger.core.errors import OpenLedgerError
from openledger.core.types import Digest
from openledger.serving.adapters import Adapter
from openledger.serving.engine import AdapterRef
from openledger.serving.request import Finish, GenerationRequest, Usage
from openledger.serving.sampling import Sampler
from openledger.serving.stream import TokenStream

Loaded = TypeVar("Loaded", bound=Adapter)


class Weighted(msgspec.Struct, Generic[Loaded], frozen=True):
    """A resident adapter and how much of it to add."""

    adapter: Loaded
    weight: float


class Decoder(Protocol):
    """One sequence's KV cache under one mix; only the engine's thread uses it."""

    def feed(self, token_ids: Items[int]) -> NDArray[np.float32]:
        """Append tokens and return the (V,) logits after the last."""
        ...

    def close(self) -> None:
        """Free it; it is not used again."""
        ...


class Runner(Protocol[Loaded]):
    """The resident base model and its arithmetic."""

    @property
    def base(self) -> Digest: ...

    @property
    def context(self) -> int: ...

    @property
    def vocabulary(self) -> int: ...

    @property
    def dtype(self) -> str: ...

    @property
    def max_rank(self) -> int | None: ...

    def prepare(self, threads: int) -> None:
        """Called once on the thread that will do all the arithmetic."""
        ...

    def read(self, ref: AdapterRef) -> Loaded:
        """Load and check one adapter; called from any thread. Errors: see `Engine.load`."""
        ...

    def open(self, mix: Items[Weighted[Loaded]]) -> Decoder:
        """An empty KV cache."""
        ...


class Pace(msgspec.Struct, frozen=True):
    """How far one step goes, and the whole sequence."""

    prefill_chunk: int  # prompt tokens
    context: int  # tokens of prompt and answer


class Sequence(Generic[Loaded]):
    """One request's progress; everything but `is_cancelled` belongs to the engine's thread."""

    def __init__(self, request: GenerationRequest, stream: TokenStream, submitted_s: float) -> None:
        self.request = request
        self.stream = stream
        self.is_cancelled = False
        self.mix: list[Weighted[Loaded]] = []
        self.load_s = 0.0
        self.paused_since_s: float | None = None
        self.made = 0
        self.prefill_s = 0.0
        self.decode_s = 0.0
        self.steps = 0
        self._submitted_s = submitted_s
        self._started_s: float | None = None
        self._sampler = Sampler(request.sampling, request.prompt_ids)
        self._fed = 0  # prompt tokens in the KV cache
        self._next: tuple[int, ...] = ()  # the token drawn last, not yet in the KV cache
        self._decoder: Decoder | None = None

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

    def step(self, runner: Runner[Loaded], pace: Pace, now_s: float) -> Finish | None:
        """Read a piece of the prompt, or make one token; say whether that was the end."""
        started = time.perf_counter()
        if self._decoder is None:
            self._decoder = runner.open(self.mix)
            self._started_s = now_s
        is_prefill = self._fed < len(self.request.prompt_ids)
        feed = (
            self.request.prompt_ids[self._fed :][: pace.prefill_chunk] if is_prefill else self._next
        )
        logits = self._decoder.feed(feed)
        self._fed += len(feed)
        finish = None
        if self._fed >= len(self.request.prompt_ids):
            finish = self._take(logits, pace.context)
        self._account(is_prefill, time.perf_counter() - started)
        return finish

    def end(self, finish: Finish, now_s: float, error: OpenLedgerError | None) -> Usage:
        """Close the stream and let the KV cache go."""
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None
        usage = self._usage(finish, now_s)
        self.stream.end(usage, error)
        return usage

    def _take(self, logits: NDArray[np.float32], context: int) -> Finish | None:
        token = self._sampler.draw(logits)
        if token.id in self.request.stop_ids:
            return Finish.STOP
        self.stream.put(token)
        self.made += 1
        self._next = (token.id,)
        is_full = len(self.request.prompt_ids) + self.made >= context
        return Finish.LENGTH if is_full or self.made >= self.request.max_tokens else None

    def _account(self, is_prefill: bool, seconds: float) -> None:
        self.steps += 1
        if is_prefill:
            self.prefill_s += seconds
        else:
            self.decode_s += seconds

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
        )
