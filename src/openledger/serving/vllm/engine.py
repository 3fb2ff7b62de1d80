"""An `Engine` on a vLLM server: it queues, checks and keeps the books; vLLM computes.

An event loop in a thread of its own has one task for each request in flight: ended by any cause, a
task closes its connection, and so the server stops computing. vLLM serves one adapter a request,
named by digest; a mix, of none too, is made into one first. Random numbers are vLLM's own, started
from the request's seed: nobody else can draw them again, and `caps` say so.
"""

import asyncio
import secrets
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog

from openledger.core.errors import (
    EngineFaultError,
    NotFoundError,
    OpenLedgerError,
    UnavailableError,
)
from openledger.core.types import Digest
from openledger.lm.base import BaseModel
from openledger.serving.engine import AdapterRef, Caps, Combine, Config, Draws, Residency, Stats
from openledger.serving.request import Finish, GenerationRequest, Token, check_mix, check_request
from openledger.serving.stream import TokenStream
from openledger.serving.vllm.client import ServerConfig, VllmClient
from openledger.serving.vllm.job import Books, Job, ending_of
from openledger.serving.vllm.library import Library
from openledger.serving.vllm.probe import check_probe, probe_request
from openledger.serving.vllm.shelf import Shelf
from openledger.serving.vllm.turns import Turns
from openledger.serving.vllm.wire import AnswerReader, completion, salt

log = structlog.get_logger()

_PATIENCE_S = 60.0  # beyond a request's deadline, before its reader calls the engine silent
_LOOK_S = 0.02  # how often a slow reader is looked at
_OPENING_S = 120.0  # to describe itself and answer the probe, or to hang up
_LOAD_S = 300.0  # beyond the client's own limits: several loads go one after another
_READERS = 4  # threads that read and make adapters
_SECRET_BYTES = 32
_DTYPE = "unstated"  # vLLM does not tell
_Result = TypeVar("_Result")


class Place(msgspec.Struct, frozen=True):
    """A server, and the folder through which it gets its adapters."""

    server: ServerConfig
    folder: Path  # on our side
    seen_at: str  # the same folder as the server names it
    pulse_s: float = 5.0  # how often the server is asked whether it lives


class VllmEngine:
    """See `engine.Engine`."""

    def __init__(self, place: Place, base: BaseModel, config: Config) -> None:
        """Connect, and check that the server has our base model.

        Raises:
            UnavailableError: no vLLM server answers there.
            ConflictError: it serves another model.
        """
        self._config = config
        self._base = base.digest
        self._vocabulary = int(base.model.config.vocab_size)
        self._max_rank = place.server.max_rank
        shelf = Shelf(place.folder, place.seen_at, base, self._max_rank)
        self._library = Library(shelf, config, self._tell, self._drop)
        self._secret = secrets.token_bytes(_SECRET_BYTES)
        self._turns = Turns(config)
        self._books = Books()
        self._is_closing = False
        self._is_hanging_up = False
        self._is_reachable = True
        self._changed = threading.Condition()
        self._pool = ThreadPoolExecutor(_READERS, "openledger-adapters")
        self._loop = asyncio.new_event_loop()
        self._client = VllmClient(place.server)
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="openledger-vllm", daemon=True
        )
        self._thread.start()
        self._open(base, place.pulse_s)

    @property
    def caps(self) -> Caps:
        return Caps(
            base=self._base,
            context=self._context,
            vocabulary=self._vocabulary,
            dtype=_DTYPE,
            max_mix=self._config.max_mix,
            max_rank=self._max_rank,
            combine=Combine.CAT,
            draws=Draws.OWN,
            build=f"vllm-{self._server.version}",
        )

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive() and not self._is_closing and self._is_reachable

    def load(self, ref: AdapterRef, *, pin: bool = False) -> Residency:
        return self._library.load(ref, is_pinned=pin)

    def unload(self, adapter: Digest) -> None:
        self._library.unload(adapter)

    def residency(self) -> tuple[Residency, ...]:
        return self._library.residency()

    def submit(self, request: GenerationRequest) -> TokenStream:
        config = self._config
        check_request(request, self._context, self._vocabulary)
        check_mix(request, config.max_mix)
        patience_s = request.deadline_s + _PATIENCE_S
        job = Job(
            request=request,
            stream=TokenStream(request.id, config.buffer_tokens, patience_s, self.cancel),
            max_tokens=min(request.max_tokens, self._context - len(request.prompt_ids)),
            turn=self._loop.create_future(),
        )
        with self._changed:
            if self._is_closing:
                raise _stopping()
            self._turns.check_place(request)
            self._library.claim(job.named, job.members)
            self._turns.enter(job)
            self._loop.call_soon_threadsafe(self._begin, job)
        return job.stream

    def cancel(self, request_id: str) -> None:
        with self._changed:
            job = self._turns.in_flight.get(request_id)
            if job is not None:
                self._loop.call_soon_threadsafe(self._stop, job, Finish.CANCELLED)

    def stats(self) -> Stats:
        adapters, books = self._library.counters, self._books
        with self._changed:
            return Stats(
                waiting=len(self._turns.waiting),
                active=len(self._turns.active),
                paused=sum(job.is_paused for job in self._turns.active),
                finished={finish.value: books.finished[finish] for finish in Finish},
                rejected=self._turns.rejected,
                prompt_tokens=books.prompt_tokens,
                cached_tokens=books.cached_tokens,
                completion_tokens=books.completion_tokens,
                steps=books.completion_tokens,
                batches={},  # the server's own affair, as are its KV blocks
                broken_batches=0,
                prefill_s=books.prefill_s,
                decode_s=books.decode_s,
                kv_blocks=0,
                kv_blocks_used=0,
                kv_blocks_idle=0,
                adapter_loads=adapters.loads,
                adapter_hits=adapters.hits,
                adapter_evictions=adapters.evictions,
                adapter_load_s=adapters.load_s,
                resident_adapters=self._library.resident,
                resident_bytes=self._library.resident_bytes,
            )

    def close(self, drain_s: float = 0.0) -> None:
        with self._changed:
            is_first = not self._is_closing
            self._is_closing = True
            self._changed.wait_for(lambda: not self._turns.in_flight, drain_s)
            for job in self._turns.in_flight.values():
                self._loop.call_soon_threadsafe(self._stop, job, Finish.SHUTDOWN)
            self._changed.wait_for(lambda: not self._turns.in_flight, _OPENING_S)
        if is_first:
            self._is_hanging_up = True
            self._call(self._hang_up(), _OPENING_S)
            self._pool.shutdown()  # before the loop, which its threads wait for
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    # In any thread but the loop's

    def _open(self, base: BaseModel, pulse_s: float) -> None:
        try:
            self._server = self._call(self._client.describe(), _OPENING_S)
            limits = (self._config.context, self._server.context)
            self._context = min(*limits, int(base.model.config.max_position_embeddings))
            request = probe_request(base)
            check_probe(base, request, self._call(self._probe(request), _OPENING_S))
        except BaseException:
            self.close()
            raise
        asyncio.run_coroutine_threadsafe(self._watch(pulse_s), self._loop)

    def _tell(self, adapter: Digest, path: str) -> None:
        if self._is_hanging_up:
            raise _stopping()
        self._call(self._client.load(adapter, path), _LOAD_S)

    def _drop(self, adapter: Digest) -> None:
        if not self._is_hanging_up:
            asyncio.run_coroutine_threadsafe(self._unload(adapter), self._loop)

    def _call(self, coroutine: Coroutine[object, object, _Result], timeout_s: float) -> _Result:
        """Have the loop run it, and wait."""
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout_s)
        except (TimeoutError, CancelledError) as error:
            raise UnavailableError(
                f"the vLLM server took longer than {timeout_s:g} seconds, or this engine stopped; "
                "look at their logs"
            ) from error

    # In the loop

    async def _probe(self, request: GenerationRequest) -> list[Token]:
        reader = self._reader(request, self._server.model, request.max_tokens)
        body = self._body(request, self._server.model, request.max_tokens)
        tokens: list[Token] = []
        async with self._client.complete(body) as events:
            async for event in events:
                tokens += reader.read(event)
        _finish(reader)
        return tokens

    async def _hang_up(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.close()

    async def _watch(self, pulse_s: float) -> None:
        """Look now and then whether the server lives."""
        while True:
            await asyncio.sleep(pulse_s)
            was, self._is_reachable = self._is_reachable, await self._client.is_healthy()
            if was != self._is_reachable:
                log.warning("vllm server", is_reachable=self._is_reachable)

    async def _unload(self, adapter: Digest) -> None:
        try:
            await self._client.unload(adapter)
        except OpenLedgerError as error:
            log.warning("adapter left at the vllm server", adapter=adapter, why=str(error))

    def _begin(self, job: Job) -> None:
        job.task = self._loop.create_task(self._serve(job))
        job.task.add_done_callback(lambda task: self._end(job, task))
        with self._changed:
            self._turns.admit()

    def _stop(self, job: Job, finish: Finish) -> None:
        assert job.task is not None  # it was begun before this was asked
        job.if_cancelled = finish
        job.task.cancel()

    def _end(self, job: Job, task: "asyncio.Task[Finish]") -> None:
        """Whatever ended the task: the books first, then the reader's news."""
        ending = ending_of(job, task)
        usage = job.usage(ending.finish)
        with self._changed:
            self._books.note(usage)
            self._turns.leave(job)
            self._library.disclaim(job.named)
            self._turns.admit()
            job.stream.end(usage, ending.error)
            self._changed.notify_all()

    async def _serve(self, job: Job) -> Finish:
        left_s = job.request.deadline_s - (time.monotonic() - job.arrived_s)
        try:
            async with asyncio.timeout(left_s):
                await job.turn
                return await self._answer_under_mix(job)
        except TimeoutError:
            return Finish.DEADLINE

    async def _answer_under_mix(self, job: Job) -> Finish:
        holding = self._loop.run_in_executor(self._pool, self._library.hold, job.members)
        try:
            name = await asyncio.shield(holding)
        except asyncio.CancelledError:
            holding.add_done_callback(self._let_go_late)
            raise
        try:
            return await self._answer_as(job, name)
        finally:
            self._pool.submit(self._library.let_go, name)

    def _let_go_late(self, holding: "asyncio.Future[Digest]") -> None:
        """Nobody waits any more for what was being made resident."""
        is_held = not holding.cancelled() and holding.exception() is None
        if is_held and not self._is_hanging_up:
            self._pool.submit(self._library.let_go, holding.result())

    async def _answer_as(self, job: Job, name: Digest) -> Finish:
        """A server that was started again has forgotten its adapters: it is told once more."""
        try:
            return await self._answer(job, name)
        except NotFoundError:
            await self._client.load(name, self._library.seen(name))
            return await self._answer(job, name)

    async def _answer(self, job: Job, model: str) -> Finish:
        job.asked_s = time.monotonic()
        reader = self._reader(job.request, model, job.max_tokens)
        body = self._body(job.request, model, job.max_tokens)
        async with self._client.complete(body) as events:
            async for event in events:
                for token in reader.read(event):
                    if not await self._has_room(job):
                        return Finish.SLOW_READER
                    self._put(job, token)
                job.cached = reader.cached_tokens
        return _finish(reader)

    def _reader(self, request: GenerationRequest, model: str, max_tokens: int) -> AnswerReader:
        return AnswerReader(request, model, max_tokens, self._vocabulary)

    def _body(self, request: GenerationRequest, model: str, most: int) -> dict[str, object]:
        return completion(request, model, most, salt(self._secret, request.tenant))

    async def _has_room(self, job: Job) -> bool:
        """Wait for a slow reader; in vain, for one that reads no more."""
        since_s = time.monotonic()
        while not job.stream.has_room():
            job.is_paused = True
            if time.monotonic() - since_s > self._config.slow_reader_s:
                return False
            await asyncio.sleep(_LOOK_S)
        job.is_paused = False
        return True

    def _put(self, job: Job, token: Token) -> None:
        if job.first_s is None:
            job.first_s = time.monotonic()
        job.made += 1
        with self._changed:
            self._turns.note_token(job)
        job.stream.put(token)


def _stopping() -> UnavailableError:
    return UnavailableError("the engine is stopping; try another or wait")


def _finish(reader: AnswerReader) -> Finish:
    if reader.finish is None:
        raise EngineFaultError(
            "the vLLM server ended an answer in the middle; the call costs nothing, try again"
        )
    return reader.finish
