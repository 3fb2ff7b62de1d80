"""Fakes that keep the contracts of the real things, in memory and deterministic; append only."""

import json
import math
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from threading import Condition
from typing import Any

from openledger.core.errors import (
    ChainUnavailableError,
    ConflictError,
    DigestMismatchError,
    EngineFaultError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)
from openledger.core.types import Digest
from openledger.serving.engine import AdapterRef, Caps, Combine, Residency, Stats, Tier
from openledger.serving.request import Finish, GenerationRequest, Token, Usage, check_request

FAKE_ADAPTER_FILE = "adapter.txt"  # FakeEngine: a folder is sound if this file has its digest


class FakeEngine:
    """An `Engine` without a model or a thread: tokens are made as they are read.

    An answer is a function of prompt, mix, seed and temperature, or what `script` says. Give
    `script` to answer every request with the same tokens and then stop.
    """

    def __init__(
        self,
        context: int = 64,
        vocabulary: int = 256,
        capacity: int = 4,
        script: Sequence[int] | None = None,
    ) -> None:
        self._capacity = capacity
        self._script = script
        self._adapters: dict[Digest, Residency] = {}
        self._leaving: set[Digest] = set()
        self._streams: dict[str, FakeStream] = {}
        self._ended: list[Usage] = []
        self._rejected = 0
        self._is_closed = False
        self.changed = Condition()
        self.breaks_at: int | None = None  # every answer breaks before this token
        self.caps = Caps(Digest("0" * 64), context, vocabulary, "float32", 8, None, Combine.ROW)

    @property
    def is_alive(self) -> bool:
        return not self._is_closed

    def load(self, ref: AdapterRef, *, pin: bool = False) -> Residency:
        file = ref.path / FAKE_ADAPTER_FILE
        if not file.is_file():
            raise NotFoundError(f"{file} is missing")
        if sha256(file.read_bytes()).hexdigest() != ref.digest:
            raise DigestMismatchError(f"{file} was altered")
        with self.changed:
            self._adapters[ref.digest] = Residency(ref.digest, Tier.RAM, 1, 1, 0, pin)
            self._leaving.discard(ref.digest)
            return self._residency(ref.digest)

    def unload(self, adapter: Digest) -> None:
        with self.changed:
            self._known(adapter)
            self._leaving.add(adapter)
            self.changed.wait_for(lambda: not self._references(adapter), 60)
            del self._adapters[adapter]

    def residency(self) -> tuple[Residency, ...]:
        with self.changed:
            return tuple(self._residency(digest) for digest in sorted(self._adapters))

    def submit(self, request: GenerationRequest) -> "FakeStream":
        check_request(request, self.caps.context, self.caps.vocabulary)
        if len(request.mix) > self.caps.max_mix:
            raise InvalidInputError("too many adapters")
        with self.changed:
            for member in request.mix:
                self._known(member.adapter)
            if request.id in self._streams:
                raise ConflictError(f"request {request.id} is in flight")
            if self._is_closed:
                raise UnavailableError("the engine is stopping")
            if len(self._streams) >= self._capacity:
                self._rejected += 1
                raise UnavailableError("the engine is full", retry_after_s="1")
            stream = self._streams[request.id] = FakeStream(self, request)
            return stream

    def cancel(self, request_id: str) -> None:
        with self.changed:
            if stream := self._streams.get(request_id):
                self.end(stream, Finish.CANCELLED)

    def stats(self) -> Stats:
        with self.changed:
            return Stats(
                waiting=0,
                active=len(self._streams),
                paused=0,
                finished={f.value: sum(u.finish is f for u in self._ended) for f in Finish},
                rejected=self._rejected,
                prompt_tokens=sum(u.prompt_tokens for u in self._ended),
                completion_tokens=sum(u.completion_tokens for u in self._ended),
                steps=sum(u.steps for u in self._ended),
                prefill_s=0.0,
                decode_s=0.0,
                adapter_loads=len(self._adapters),
                adapter_hits=0,
                adapter_evictions=0,
                adapter_load_s=0.0,
                resident_bytes=len(self._adapters),
            )

    def close(self, drain_s: float = 0.0) -> None:
        with self.changed:
            self._is_closed = True
            for stream in list(self._streams.values()):
                self.end(stream, Finish.SHUTDOWN)

    def answer(self, request: GenerationRequest, position: int) -> int:
        """The token at this place; the vocabulary's size where a script has run out."""
        if self._script is not None:
            return self._script[position] if position < len(self._script) else self.caps.vocabulary
        mix = [member for member in request.mix if member.weight]
        seed = request.sampling.seed if request.sampling.temperature else b""
        raw = repr((request.prompt_ids, mix, seed, position)).encode()
        return int.from_bytes(sha256(raw).digest()[:4], "big") % self.caps.vocabulary

    def end(self, stream: "FakeStream", finish: Finish) -> None:
        stream.ended = Usage(
            len(stream.request.prompt_ids), stream.made, stream.made, 0, 0, 0, 0, finish
        )
        self._ended.append(stream.ended)
        del self._streams[stream.request.id]
        self.changed.notify_all()

    def _known(self, adapter: Digest) -> None:
        if adapter not in self._adapters or adapter in self._leaving:
            raise NotFoundError(f"adapter {adapter} is not loaded")

    def _references(self, adapter: Digest) -> int:
        mixes = [stream.request.mix for stream in self._streams.values()]
        return sum(member.adapter == adapter for mix in mixes for member in mix)

    def _residency(self, adapter: Digest) -> Residency:
        one = self._adapters[adapter]
        used = self._references(adapter)
        return Residency(adapter, one.tier, one.rank, one.size_bytes, used, one.is_pinned)


class FakeStream:
    """The `Stream` of a FakeEngine."""

    def __init__(self, engine: FakeEngine, request: GenerationRequest) -> None:
        self.request = request
        self.request_id = request.id
        self.made = 0
        self.ended: Usage | None = None
        self._engine = engine
        self._deadline = time.monotonic() + request.deadline_s

    def __iter__(self) -> "FakeStream":
        return self

    def __next__(self) -> Token:
        with self._engine.changed:
            return self._step() or self._close()

    def cancel(self) -> None:
        self._engine.cancel(self.request_id)

    def usage(self) -> Usage:
        with self._engine.changed:
            while self.ended is None:
                self._step()
            return self.ended

    def _step(self) -> Token | None:
        if self.ended is not None:
            return None
        token = self._engine.answer(self.request, self.made)
        if finish := self._why_end(token):
            self._engine.end(self, finish)
            return None
        self.made += 1
        return Token(token, -math.log(2))

    def _why_end(self, token: int) -> Finish | None:
        request, caps = self.request, self._engine.caps
        if time.monotonic() >= self._deadline:
            return Finish.DEADLINE
        if self.made == self._engine.breaks_at:
            return Finish.FAULT
        if self.made >= min(request.max_tokens, caps.context - len(request.prompt_ids)):
            return Finish.LENGTH
        return Finish.STOP if token in request.stop_ids or token == caps.vocabulary else None

    def _close(self) -> Token:
        assert self.ended is not None
        if self.ended.finish is Finish.FAULT:
            raise EngineFaultError("the fake engine was told to break")
        if self.ended.finish is Finish.SHUTDOWN:
            raise UnavailableError("the engine was stopped before the answer ended")
        raise StopIteration


class RpcTransport:
    """A chain behind its JSON-RPC door, in this process."""

    def __init__(self, rpc: Callable[[bytes], bytes]) -> None:
        self._rpc = rpc

    def make_request(self, method: str, params: Sequence[object]) -> dict[str, Any]:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        found: dict[str, Any] = json.loads(self._rpc(json.dumps(body).encode()))
        return found


class FailingTransport:
    """A transport that goes down at the n-th request from now, and stays down until it is mended.

    With `is_heard` the request at which it goes down still takes effect: only its answer is lost.
    """

    def __init__(self, transport: RpcTransport, *, is_heard: bool = False) -> None:
        self._transport = transport
        self._is_heard = is_heard
        self.left: int | None = None  # requests that are still answered; None: all
        self.requests = 0

    def make_request(self, method: str, params: Sequence[object]) -> dict[str, Any]:
        self.requests += 1
        if self.left == 0:
            raise ChainUnavailableError("the chain is down")
        if self.left is not None:
            self.left -= 1
            if self.left == 0 and self._is_heard:
                self._transport.make_request(method, params)
                raise ChainUnavailableError("the answer was lost")
        return self._transport.make_request(method, params)
