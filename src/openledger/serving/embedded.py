"""The embedded engine: one thread, every step one batch of whatever can go on.

Each step is schedule, run, postprocess. Answers come first, a token each; what is left of the
step's budget reads prompts, piece by piece. What else runs decides when an answer is made, and by
which arithmetic it is rounded, but neither its seed nor its mix nor what it may read.
"""

import time
from collections import Counter
from collections.abc import Callable
from threading import Condition, Thread
from typing import Generic

from openledger.core.errors import (
    ConflictError,
    UnavailableError,
)
from openledger.core.types import Digest
from openledger.serving.adapters import AdapterStore
from openledger.serving.batch import Loaded, Runner
from openledger.serving.engine import AdapterRef, Caps, Combine, Config, Draws, Residency, Stats
from openledger.serving.request import (
    EmbeddingRequest,
    Finish,
    GenerationRequest,
    check_embedding,
    check_mix,
    check_request,
)
from openledger.serving.schedule.blocks import BlockPool, count_blocks
from openledger.serving.schedule.fairness import (
    ANSWER_COST,
    PROMPT_COST,
    DrainRate,
    TokenCounters,
    engine_full,
    may_queue,
)
from openledger.serving.schedule.rows import End, Row, plan, take
from openledger.serving.schedule.sequence import (
    AnswerSequence,
    EmbeddingSequence,
    Found,
    Sequence,
)
from openledger.serving.schedule.waiting import Queue, Reader, Reading
from openledger.serving.stream import TokenStream, VectorStream

_BUILD = "embedded-4"
_IDLE_S = 0.05  # how often paused and waiting sequences are looked at when nothing can run
_PATIENCE_S = 60.0  # beyond a request's deadline, before its reader calls the engine silent
_AHEAD = 8  # waiting requests whose adapters are read before there is a place for them
_TRIED = 32  # waiting requests that are tried for one place


class EmbeddedEngine(Generic[Loaded]):
    """An `Engine` in this process."""

    def __init__(
        self,
        runner: Runner[Loaded],
        config: Config,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the engine's thread.

        Raises:
            InvalidInputError: the configuration leaves no room to work in.
        """
        self._runner = runner
        self._config = config
        self._now_s = now_s
        self._context = min(config.context, runner.context)
        self._pool = BlockPool(count_blocks(runner, config, self._context), runner.block_tokens)
        self._store = AdapterStore(runner.read, config.adapter_bytes, config.unload_timeout_s)
        self._reader = Reader(self._store, self._on_read)
        self._counters = TokenCounters()
        self._drain = DrainRate()
        self._in_flight: dict[str, Sequence[Loaded]] = {}
        self._waiting: Queue[Loaded] = Queue(self._counters, config.skip_limit_s)
        self._active: list[Sequence[Loaded]] = []  # in order of admission
        self._step_s = 0.0  # how long the last step took
        self._is_giving_way = False  # no adapters are read ahead while one is overdue for its own
        self._finished: Counter[Finish] = Counter()
        self._batches: Counter[int] = Counter()
        self._tally: Counter[str] = Counter()
        self._prefill_s = 0.0
        self._decode_s = 0.0
        self._working_s = 0.0
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
            hidden=self._runner.hidden,
            draws=Draws.SEED,
            build=_BUILD,
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
        check_request(request, self._context, self._runner.vocabulary, keeps_hidden=True)
        patience_s = request.deadline_s + _PATIENCE_S
        stream = TokenStream(request.id, self._config.buffer_tokens, patience_s, self.cancel)
        self._enter(AnswerSequence(request, stream, self._now_s(), self._context))
        return stream

    def embed(self, request: EmbeddingRequest) -> VectorStream:
        check_embedding(request, self._context, self._runner.vocabulary)
        stream = VectorStream(request.id, 1, request.deadline_s + _PATIENCE_S, self.cancel)
        self._enter(EmbeddingSequence(request, stream, self._now_s()))
        return stream

    def _enter(self, sequence: Sequence[Loaded]) -> None:
        request = sequence.request
        check_mix(request, self._config.max_mix)
        with self._changed:
            self._check_place(request)
            self._store.claim(sequence.named)
            self._in_flight[request.id] = sequence
            self._counters.arrive(request.tenant)
            self._waiting.add(sequence)
            if len(self._waiting) <= _AHEAD and not self._is_giving_way:
                self._reader.has(sequence)
            self._changed.notify_all()

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
                cached_tokens=self._tally["cached"],
                completion_tokens=self._tally["completion"],
                steps=self._tally["steps"],
                batches=dict(self._batches),
                broken_batches=self._tally["broken"],
                prefill_s=self._prefill_s,
                decode_s=self._decode_s,
                kv_blocks=self._pool.count,
                kv_blocks_used=self._pool.used,
                kv_blocks_idle=self._pool.idle,
                adapter_loads=store.loads,
                adapter_hits=store.hits,
                adapter_evictions=store.evictions,
                adapter_load_s=store.load_s,
                resident_adapters=self._store.resident(),
                resident_bytes=self._store.resident_bytes(),
            )

    def close(self, drain_s: float = 0.0) -> None:
        with self._changed:
            self._is_closing = True
            self._changed.wait_for(lambda: not self._in_flight, drain_s)
            self._must_stop = True
            self._changed.notify_all()
        self._thread.join()
        self._reader.close()

    # Asked of the engine's thread, under its lock

    def _check_place(self, request: GenerationRequest | EmbeddingRequest) -> None:
        taken, places = len(self._in_flight), self._config.max_active + self._config.max_waiting
        if self._is_closing:
            raise UnavailableError("the engine is stopping; try another or wait")
        if request.id in self._in_flight:
            raise ConflictError(f"request {request.id} is in flight; give each its own id")
        own = self._counters.in_flight(request.tenant)
        if not may_queue(own, taken, places):
            self._tally["rejected"] += 1
            raise engine_full(own, taken, places, self._drain.retry_after_s(self._working_s))

    def _on_read(self, sequence: Sequence[Loaded], reading: Reading[Loaded]) -> None:
        with self._changed:
            sequence.is_reading = False
            sequence.load_s += reading.seconds
            sequence.mix = reading.mix
            if self._in_flight.get(sequence.request.id) is not sequence:
                self._reader.give_up(sequence)  # it ended meanwhile
            elif reading.error is not None:
                # Whoever holds adapters will end; where nobody does, there will never be room.
                is_hopeful = reading.freed < self._store.freed or any(
                    one.mix for one in self._in_flight.values()
                )
                if isinstance(reading.error, UnavailableError) and is_hopeful:
                    sequence.refused_at = reading.freed
                else:
                    self._finish(End(sequence, Finish.FAULT, reading.error))
            self._changed.notify_all()

    def _end_what_must(self) -> None:
        for sequence in [*self._active, *self._waiting]:
            finish = sequence.why_stop(self._now_s(), self._config.slow_reader_s)
            if finish is not None:
                self._finish(End(sequence, finish))

    def _fill(self) -> None:
        """Let in whose turn it is and who has what he needs."""
        self._is_giving_way = False
        while len(self._active) < self._config.max_active:
            chosen = self._next_in()
            if chosen is None:
                break
            self._waiting.drop(chosen)
            self._active.append(chosen)
            fresh = len(chosen.request.prompt_ids) - chosen.reused
            self._counters.charge(chosen.request.tenant, PROMPT_COST * fresh)
        if not self._is_giving_way:
            for sequence in self._waiting.in_turn(self._now_s())[:_AHEAD]:
                self._reader.has(sequence)

    def _next_in(self) -> Sequence[Loaded] | None:
        now_s = self._now_s()
        for sequence in self._waiting.in_turn(now_s)[:_TRIED]:
            if self._reader.has(sequence) and sequence.start(self._pool, now_s):
                return sequence
            if not self._waiting.pass_by(sequence, now_s):
                self._give_way(sequence)
                break
        return None

    def _give_way(self, overdue: Sequence[Loaded]) -> None:
        """Those that wait behind it must not hold the adapters' room that it waits for."""
        if overdue.mix is None:
            self._is_giving_way = True
            for sequence in self._waiting:
                if sequence is not overdue:
                    self._reader.give_up(sequence)

    def _finish(self, end: End[Loaded]) -> None:
        sequence, request = end.sequence, end.sequence.request
        self._waiting.drop(sequence)
        if sequence in self._active:
            self._active.remove(sequence)
            self._drain.note(self._working_s)
        del self._in_flight[request.id]
        self._counters.leave(request.tenant)
        self._reader.give_up(sequence)
        self._store.disclaim(sequence.named)
        usage = sequence.end(end.finish, self._now_s(), end.error)
        self._finished[end.finish] += 1
        self._tally["prompt"] += usage.prompt_tokens
        self._tally["cached"] += usage.cached_tokens
        self._tally["completion"] += usage.completion_tokens
        self._tally["steps"] += usage.steps
        self._prefill_s += usage.prefill_s
        self._decode_s += usage.decode_s
        self._changed.notify_all()

    def _shut(self, sequence: Sequence[Loaded]) -> None:
        error = UnavailableError("the engine was stopped before the answer ended; try again")
        self._finish(End(sequence, Finish.SHUTDOWN, error))

    # The engine's thread

    def _run(self) -> None:
        try:
            self._runner.prepare(self._config.threads, self._pool.count)
            while rows := self._schedule():
                self._advance(rows)
        finally:
            self._stop()

    def _stop(self) -> None:
        with self._changed:
            self._is_closing = self._must_stop = True
            for sequence in [*self._active, *self._waiting]:
                self._shut(sequence)

    def _schedule(self) -> list[Row[Loaded]]:
        """Wait until something can take a step; nothing when the engine must stop."""
        with self._changed:
            while not self._must_stop:
                self._end_what_must()
                self._fill()
                self._await_reading()
                if rows := self._plan():
                    return rows
                self._changed.wait(_IDLE_S if self._in_flight else None)
            return []

    def _await_reading(self) -> None:
        """Let those in whose adapters are all but there, rather than step with empty places.

        Each is awaited once, and so long that the others lose no more time by it, taken together,
        than those awaited would lose by missing a step as long as the last.
        """
        free = self._config.max_active - len(self._active)
        late = [one for one in self._waiting if one.is_reading and not one.was_awaited][:free]
        if not late or not self._active:
            return
        for one in late:
            one.was_awaited = True
        longest_s = self._step_s * len(late) / (len(late) + len(self._active))
        self._changed.wait_for(lambda: not any(one.is_reading for one in late), longest_s)
        self._end_what_must()
        self._fill()

    def _plan(self) -> list[Row[Loaded]]:
        limits = (self._config.step_tokens, self._config.prefill_chunk, self._pool.block_tokens)
        return plan(self._active, *limits)

    def _advance(self, rows: list[Row[Loaded]]) -> None:
        started_s = self._now_s()
        found = self._compute(rows)
        ends = [take(row, one) for row, one in zip(rows, found, strict=True)]
        seconds = self._now_s() - started_s
        fed = sum(len(row.chunk.token_ids) for row in rows)
        with self._changed:
            self._working_s += seconds
            self._step_s = seconds
            self._batches[1 << (len(rows) - 1).bit_length()] += 1
            for row in rows:
                row.sequence.account(row.chunk, seconds * len(row.chunk.token_ids) / fed)
                if row.chunk.is_last:
                    self._counters.charge(row.sequence.request.tenant, ANSWER_COST)
            for end in ends:
                if end is not None:
                    self._finish(end)

    def _compute(self, rows: list[Row[Loaded]]) -> list[Found | Exception]:
        """What the runner made of each row; when a step raises, each of its rows runs alone."""
        try:
            output = self._runner.run([row.chunk for row in rows])
            logits = iter(output.logits)
            return [
                Found(next(logits) if row.chunk.is_last else None, output.captured.get(place))
                for place, row in enumerate(rows)
            ]
        except Exception as cause:  # noqa: BLE001 - whatever broke, it ends who broke it alone
            if len(rows) == 1:
                return [cause]
        self._tally["broken"] += 1
        return [self._compute([row])[0] for row in rows]
