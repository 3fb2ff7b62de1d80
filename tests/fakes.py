"""Fakes that keep the contracts of the real things, in memory and deterministic; append only."""

import json
import math
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from threading import Condition, Event
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from openledger.core.errors import (
    ChainUnavailableError,
    ConflictError,
    DigestMismatchError,
    EngineFaultError,
    EngineFullError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)
from openledger.core.types import Digest
from openledger.serving.batch import Chunk, Weighted
from openledger.serving.engine import AdapterRef, Caps, Combine, Draws, Residency, Stats, Tier
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
        self.caps = Caps(
            base=Digest("0" * 64),
            context=context,
            vocabulary=vocabulary,
            dtype="float32",
            max_mix=8,
            max_rank=None,
            combine=Combine.ROW,
            draws=Draws.SEED,
            build="fake-1",
        )

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
                raise EngineFullError("the engine is full", retry_after_s="1")
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
                cached_tokens=0,
                completion_tokens=sum(u.completion_tokens for u in self._ended),
                steps=sum(u.steps for u in self._ended),
                batches={},
                broken_batches=0,
                prefill_s=0.0,
                decode_s=0.0,
                kv_blocks=0,
                kv_blocks_used=0,
                kv_blocks_idle=0,
                adapter_loads=len(self._adapters),
                adapter_hits=0,
                adapter_evictions=0,
                adapter_load_s=0.0,
                resident_adapters=len(self._adapters),
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


HASH_VOCABULARY = 32
BREAKING_TOKEN = 31  # a HashRunner breaks on a piece of a prompt that ends with it


class HashAdapter(msgspec.Struct, frozen=True):
    """An adapter of a HashRunner: it adds to what is hashed."""

    name: str
    size_bytes: int
    rank: int = 1


class HashRunner:
    """A `Runner` whose logits are a hash of what the KV blocks hold: exact and quick, no model.

    Each place in the cache holds a hash of its token, position and mix and of the place before it,
    so a wrong table, a stale prefix or one of another mix gives another answer than
    `hash_logits`. A folder is a sound adapter if its file `name` has the digest.
    """

    base = Digest("b" * 64)
    vocabulary = HASH_VOCABULARY
    dtype = "float32"
    max_rank = None
    block_tokens = 4
    block_bytes = 100

    def __init__(self, context: int = 64, adapter_bytes: int = 10) -> None:
        self.context = context
        self.steps: list[list[tuple[int, ...]]] = []  # what was fed in each, by row
        self.gate = Event()  # cleared: every step waits
        self.gate.set()
        self.is_at_gate = Event()
        self.on_read: Callable[[], None] = lambda: None
        self._cache: list[list[bytes]] = []
        self._adapter_bytes = adapter_bytes

    @property
    def fed(self) -> list[int]:
        """The length of every chunk, in order."""
        return [len(token_ids) for step in self.steps for token_ids in step]

    def prepare(self, threads: int, blocks: int) -> None:
        assert threads > 0
        self._cache = [[b""] * self.block_tokens for _ in range(blocks)]

    def read(self, ref: AdapterRef) -> HashAdapter:
        self.on_read()
        file = ref.path / "name"
        if not file.is_file():
            raise NotFoundError(f"{file} is missing")
        if sha256(file.read_bytes()).hexdigest() != ref.digest:
            raise DigestMismatchError(f"{file} was altered")
        return HashAdapter(file.read_text(), self._adapter_bytes)

    def run(self, chunks: Sequence[Chunk[HashAdapter]]) -> NDArray[np.float32]:
        self.is_at_gate.set()
        self.gate.wait(10)
        self.steps.append([chunk.token_ids for chunk in chunks])
        # In no helpful order: what one chunk writes no other of the same step may need.
        for chunk in reversed(chunks):
            if chunk.token_ids[-1] == BREAKING_TOKEN and len(chunk.token_ids) > 1:
                raise RuntimeError("told to break")
            self._write(chunk)
        rows = [self._logits(chunk) for chunk in chunks if chunk.is_last]
        return np.array(rows, np.float32).reshape(-1, self.vocabulary)

    def _write(self, chunk: Chunk[HashAdapter]) -> None:
        assert len(chunk.blocks) == -(-(chunk.start + len(chunk.token_ids)) // self.block_tokens)
        before = self._read(chunk, chunk.start)[-1:]
        fresh = _places(chunk.token_ids, chunk.start, _named(chunk.mix), b"".join(before))
        for position, place in enumerate(fresh, chunk.start):
            block = chunk.blocks[position // self.block_tokens]
            self._cache[block][position % self.block_tokens] = place

    def _read(self, chunk: Chunk[HashAdapter], count: int) -> list[bytes]:
        return [place for block in chunk.blocks for place in self._cache[block]][:count]

    def _logits(self, chunk: Chunk[HashAdapter]) -> NDArray[np.float32]:
        return _hashed(self._read(chunk, chunk.start + len(chunk.token_ids)))


def hash_logits(token_ids: Sequence[int], mix: Sequence[tuple[str, float]]) -> NDArray[np.float32]:
    """(V,) logits that a HashRunner must give after these tokens under adapters of these names."""
    return _hashed(_places(token_ids, 0, list(mix), b""))


def _places(
    token_ids: Sequence[int], start: int, mix: list[tuple[str, float]], place: bytes
) -> list[bytes]:
    places = []
    for position, token in enumerate(token_ids, start):
        place = sha256(place + repr((position, token, mix)).encode()).digest()
        places.append(place)
    return places


def _named(mix: Sequence[Weighted[HashAdapter]]) -> list[tuple[str, float]]:
    return [(one.adapter.name, one.weight) for one in mix]


def _hashed(places: Sequence[bytes]) -> NDArray[np.float32]:
    raw = np.frombuffer(sha256(b"".join(places)).digest(), np.uint8)
    return raw.astype(np.float32) / np.float32(64)
