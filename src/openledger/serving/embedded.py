"""The embedded engine: one thread, one step of one sequence at a time, in turns.

Each step is schedule, run, postprocess. Sequences never share a forward pass here, so what else
runs cannot change an answer; an engine that batches keeps the same contract.
"""

import math
import time
from collections import Counter, deque
from collections.abc import Callable
from threading import Condition, Thread
from typing import Generic, TypeVar

from openledger.core.errors import (
    ConflictError,
    EngineFaultError,
    InvalidInputError,
    OpenLedgerError,
    UnavailableError,
)
from openledger.core.types import Digest
from openledger.serving.adapters import Adapter, AdapterStore
from openledger.serving.engine import AdapterRef, Caps, Combine, Config, Residency, Stats
from openledger.serving.request import Finish, GenerationRequest, check_request
from openledger.serving.sequence import Pace, Runner, Sequence, Weighted
from openledger.serving.stream import TokenStream

Loaded = TypeVar("Loaded", bound=Adapter)

_IDLE_S = 0.05  # how often paused and waiting sequences are looked at when nothing can run
_PATIENCE_S = 60.0  # beyond a request's deadline, before its reader calls the engine silent
_FIRST_GUESS_S = 1.0  # per request, until one has finished


class EmbeddedEngine(Generic[Loaded]):
    """An `Engine` in this process."""

    def __init__(
        self,
        runner: Runner[Loaded],
        config: Config,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runner = runner
        self._config = config
        self._now_s = now_s
        self._store = AdapterStore(runner.read, config.adapter_bytes, config.unload_timeout_s)
        self._context = min(config.context, runner.context)
        self._pace = Pace(config.prefill_chunk, self._context)
        self._in_flight: dict[str, Sequence[Loaded]] = {}
        self._waiting: deque[Sequence[Loaded]] = deque()
        self._active: deque[Sequence[Loaded]] = deque()
        self._finished: Counter[Finish] = Counter()
        self._tally: Counter[str] = Counter()
        self._prefill_s = 0.0
        self._decode_s = 0.0
        self._is_closing = False
        self._must_stop = False
        self._changed = Condition()
        self._thread = Thread(target=self._run, name="openledger-engine", daemon=True)
        self._thread.start()

    @property
    def caps(self) -> Caps:
        return Caps(
            base=self._runner.base,
            context=self._context,
            vocabulary=self._runner.vocabulary,
            dtype=self._runner.dtype,
            max_mix=self._config.max_mix,
            max_rank=self._runner.max_rank,
            combine=Combine.ROW,
        )

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive() and not self._is_closing

    def load(self, ref: AdapterRef, *, pin: bool = False) -> Residency:
        return self._store.load(ref, pin=pin)

    def unload(self, adapter: Digest) -> None:
        self._store.unload(adapter)

    def residency(self) -> tuple[Residency, ...]:
        return self._store.residency()

    def submit(self, request: GenerationRequest) -> TokenStream:
        check_request(request, self._context, self._runner.vocabulary)
        if len(request.mix) > self._config.max_mix:
            raise InvalidInputError(
                f"a mix holds at most {self._config.max_mix} adapters, not {len(request.mix)}"
            )
        sequence = self._admit(request)
        try:
            self._take_references(sequence)
        except BaseException:
            with self._changed:
                del self._in_flight[request.id]
            raise
        with self._changed:
            # The engine may have stopped while the adapters were read.
            if self._must_stop:
                self._shut(sequence)
            else:
                self._waiting.append(sequence)
                self._changed.notify_all()
        return sequence.stream

    def cancel(self, request_id: str) -> None:
        with self._changed:
            sequence = self._in_flight.get(request_id)
            if sequence is not None:
                sequence.is_cancelled = True
                self._changed.notify_all()

    def stats(self) -> Stats:
        store = self._store.counters
        with self._changed:
            return Stats(
                waiting=len(self._waiting),
                active=len(self._active),
                paused=sum(one.paused_since_s is not None for one in self._active),
                finished={finish.value: self._finished[finish] for finish in Finish},
                rejected=self._tally["rejected"],
                prompt_tokens=self._tally["prompt"],
                completion_tokens=self._tally["completion"],
                steps=self._tally["steps"],
                prefill_s=self._prefill_s,
                decode_s=self._decode_s,
                adapter_loads=store.loads,
                adapter_hits=store.hits,
                adapter_evictions=store.evictions,
                adapter_load_s=store.load_s,
                resident_bytes=self._store.resident_bytes(),
            )

    def close(self, drain_s: float = 0.0) -> None:
        with self._changed:
            self._is_closing = True
            self._changed.wait_for(lambda: not self._in_flight, drain_s)
            self._must_stop = True
            self._changed.notify_all()
        self._thread.join()

    def _admit(self, request: GenerationRequest) -> Sequence[Loaded]:
        config = self._config
        stream = TokenStream(
            request.id, config.buffer_tokens, request.deadline_s + _PATIENCE_S, self.cancel
        )
        with self._changed:
            if self._is_closing:
                raise UnavailableError("the engine is stopping; try another or wait")
            if request.id in self._in_flight:
                raise ConflictError(f"request {request.id} is in flight; give each its own id")
            if len(self._in_flight) >= config.max_active + config.max_waiting:
                self._tally["rejected"] += 1
                retry_s = self._retry_after_s()
                raise UnavailableError(
                    f"{len(self._in_flight)} requests are in flight, as many as this engine takes; "
                    f"try again in {retry_s} seconds",
                    retry_after_s=str(retry_s),
                )
            sequence: Sequence[Loaded] = Sequence(request, stream, self._now_s())
            self._in_flight[request.id] = sequence
            return sequence

    def _retry_after_s(self) -> int:
        """One thread works, so a place is free after about one request's working time."""
        count = self._finished.total()
        mean_s = (self._prefill_s + self._decode_s) / count if count else _FIRST_GUESS_S
        return max(1, math.ceil(mean_s))

    def _take_references(self, sequence: Sequence[Loaded]) -> None:
        started = self._now_s()
        try:
            for member in sequence.request.mix:
                adapter = self._store.acquire(member.adapter)
                sequence.mix.append(Weighted(adapter, member.weight))
        except BaseException:
            self._give_references(sequence)
            raise
        sequence.load_s = self._now_s() - started

    def _give_references(self, sequence: Sequence[Loaded]) -> None:
        for member, _ in zip(sequence.request.mix, sequence.mix, strict=False):
            self._store.release(member.adapter)
        sequence.mix.clear()

    def _run(self) -> None:
        try:
            self._runner.prepare(self._config.threads)
            while (sequence := self._schedule()) is not None:
                self._advance(sequence)
        finally:
            self._stop()

    def _schedule(self) -> Sequence[Loaded] | None:
        """Wait for a sequence that can take a step; None when the engine must stop."""
        with self._changed:
            while not self._must_stop:
                self._end_what_must()
                self._fill()
                for _ in range(len(self._active)):
                    self._active.rotate(-1)
                    if self._active[-1].paused_since_s is None:
                        return self._active[-1]
                self._changed.wait(_IDLE_S if self._active else None)
            return None

    def _end_what_must(self) -> None:
        for sequence in [*self._active, *self._waiting]:
            finish = sequence.why_stop(self._now_s(), self._config.slow_reader_s)
            if finish is not None:
                self._finish(sequence, finish)

    def _fill(self) -> None:
        """Let those in whose tenant has the fewest at work, then the eldest."""
        while self._waiting and len(self._active) < self._config.max_active:
            at_work = Counter(one.request.tenant for one in self._active)
            chosen = min(self._waiting, key=lambda one: at_work[one.request.tenant])
            self._waiting.remove(chosen)
            self._active.append(chosen)

    def _advance(self, sequence: Sequence[Loaded]) -> None:
        error: EngineFaultError | None = None
        try:
            finish = sequence.step(self._runner, self._pace, self._now_s())
        except Exception as cause:  # noqa: BLE001 - whatever broke, it ends this sequence alone
            finish = Finish.FAULT
            error = EngineFaultError(
                f"request {sequence.request.id} broke inside the engine "
                f"({type(cause).__name__}); it costs nothing, try again"
            )
            error.__cause__ = cause
        if finish is not None:
            with self._changed:
                self._finish(sequence, finish, error)

    def _finish(
        self, sequence: Sequence[Loaded], finish: Finish, error: OpenLedgerError | None = None
    ) -> None:
        for queue in (self._active, self._waiting):
            if sequence in queue:
                queue.remove(sequence)
        del self._in_flight[sequence.request.id]
        self._give_references(sequence)
        usage = sequence.end(finish, self._now_s(), error)
        self._finished[finish] += 1
        self._tally["prompt"] += usage.prompt_tokens
        self._tally["completion"] += usage.completion_tokens
        self._tally["steps"] += usage.steps
        self._prefill_s += usage.prefill_s
        self._decode_s += usage.decode_s
        self._changed.notify_all()

    def _stop(self) -> None:
        with self._changed:
            self._is_closing = self._must_stop = True
            for sequence in [*self._active, *self._waiting]:
                self._shut(sequence)

    def _shut(self, sequence: Sequence[Loaded]) -> None:
        error = UnavailableError("the engine was stopped before the answer ended; try again")
        self._finish(sequence, Finish.SHUTDOWN, error)
