"""Fakes that keep the contracts of the real things, in memory and deterministic; append only."""

import asyncio
import json
import math
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from hashlib import sha256
from pathlib import Path
from threading import Condition, Event, Thread
from typing import Any

import msgspec
import numpy as np
import uvicorn
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

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
from openledger.serving.batch import Capture, Captured, Chunk, Output, Weighted
from openledger.serving.engine import AdapterRef, Caps, Combine, Draws, Residency, Stats, Tier
from openledger.serving.request import (
    Finish,
    GenerationRequest,
    Sampling,
    Token,
    Usage,
    check_request,
)
from openledger.serving.sampling import Sampler

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
    hidden = 16
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

    def run(self, chunks: Sequence[Chunk[HashAdapter]]) -> Output:
        self.is_at_gate.set()
        self.gate.wait(10)
        self.steps.append([chunk.token_ids for chunk in chunks])
        # In no helpful order: what one chunk writes no other of the same step may need.
        for chunk in reversed(chunks):
            if chunk.token_ids[-1] == BREAKING_TOKEN and len(chunk.token_ids) > 1:
                raise RuntimeError("told to break")
            self._write(chunk)
        rows = [self._logits(chunk) for chunk in chunks if chunk.is_last]
        captured = {
            place: self._captured(chunk)
            for place, chunk in enumerate(chunks)
            if chunk.capture is not Capture.NONE
        }
        return Output(np.array(rows, np.float32).reshape(-1, self.vocabulary), captured)

    def _write(self, chunk: Chunk[HashAdapter]) -> None:
        assert len(chunk.blocks) == -(-(chunk.start + len(chunk.token_ids)) // self.block_tokens)
        before = self._read(chunk, chunk.start)[-1:]
        fresh = _places(chunk.token_ids, chunk.start, _named(chunk.mix), b"".join(before))
        for position, place in enumerate(fresh, chunk.start):
            block = chunk.blocks[position // self.block_tokens]
            self._cache[block][position % self.block_tokens] = place

    def _read(self, chunk: Chunk[HashAdapter], count: int) -> list[bytes]:
        return [place for block in chunk.blocks for place in self._cache[block]][:count]

    def _captured(self, chunk: Chunk[HashAdapter]) -> Captured:
        states = _states(self._read(chunk, chunk.start + len(chunk.token_ids))[chunk.start :])
        total: NDArray[np.float64] = states.sum(0, np.float64)
        return states[-1] if chunk.capture is Capture.LAST else total

    def _logits(self, chunk: Chunk[HashAdapter]) -> NDArray[np.float32]:
        return _hashed(self._read(chunk, chunk.start + len(chunk.token_ids)))


def hash_logits(token_ids: Sequence[int], mix: Sequence[tuple[str, float]]) -> NDArray[np.float32]:
    """(V,) logits that a HashRunner must give after these tokens under adapters of these names."""
    return _hashed(_places(token_ids, 0, list(mix), b""))


def hash_states(token_ids: Sequence[int], mix: Sequence[tuple[str, float]]) -> NDArray[np.uint16]:
    """(T, D) final hidden states that a HashRunner must give of these tokens."""
    return _states(_places(token_ids, 0, list(mix), b""))


def _states(places: Sequence[bytes]) -> NDArray[np.uint16]:
    return np.array([np.frombuffer(place, "<u2") for place in places])


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


_Answer = Callable[[Request], Awaitable[Response]]


class FakeVllm:
    """A vLLM server on loopback: the routes and fields of 0.32 that a client needs.

    A function stands for the model: (V,) logits after some tokens, under the adapter in a folder.
    Its draws follow from the request's seed, in a way of its own. While `is_stuck` no token is
    made and no adapter loaded; `spoil` may put other bytes in an event's place.
    """

    base = "base"

    def __init__(
        self,
        logits: Callable[[Sequence[int], Path | None], NDArray[np.float32]],
        context: int = 64,
        max_rank: int = 64,
        key: str | None = None,
    ) -> None:
        self._logits = logits
        self._context = context
        self._max_rank = max_rank
        self._key = key
        self.adapters: dict[str, Path] = {}
        self.asked: list[dict[str, Any]] = []  # bodies of completions
        self.at_work = 0  # answers being made
        self.is_stuck = False
        self.spoil: Callable[[int, bytes], bytes] = lambda _, event: event  # by its number from 0
        self.refusal: int | None = None  # the status that everything is answered with
        app = Starlette(
            routes=[
                Route("/health", self._guarded(self._health)),
                Route("/version", self._guarded(self._version)),
                Route("/v1/models", self._guarded(self._models)),
                Route("/v1/load_lora_adapter", self._guarded(self._load), methods=["POST"]),
                Route("/v1/unload_lora_adapter", self._guarded(self._unload), methods=["POST"]),
                Route("/v1/completions", self._guarded(self._complete), methods=["POST"]),
            ]
        )
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
        self._thread = Thread(target=self._server.run, args=[[self._listener]])
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(10)
        self._listener.close()

    def _guarded(self, answer: _Answer) -> _Answer:
        async def guarded(request: Request) -> Response:
            wanted = None if self._key is None else f"Bearer {self._key}"
            if wanted is not None and request.headers.get("authorization") != wanted:
                return JSONResponse({"error": "Unauthorized"}, 401)
            if self.refusal is not None:
                return _vllm_error(self.refusal, "told to refuse")
            return await answer(request)

        return guarded

    async def _health(self, _: Request) -> Response:
        return Response()

    async def _version(self, _: Request) -> Response:
        return JSONResponse({"version": "0.32.0"})

    async def _models(self, _: Request) -> Response:
        base: dict[str, object] = {"id": self.base, "object": "model", "parent": None}
        cards = [base | {"root": "/models/base", "max_model_len": self._context}]
        for name, path in self.adapters.items():
            cards.append(base | {"id": name, "root": str(path), "parent": self.base})
        return JSONResponse({"object": "list", "data": cards})

    async def _load(self, request: Request) -> Response:
        body = await request.json()
        await self._unstuck()
        name, path = body["lora_name"], Path(body["lora_path"])
        if name in self.adapters or name == self.base:
            return _vllm_error(400, f"The lora adapter '{name}' has already been loaded.")
        if not (path / "adapter_config.json").is_file():
            return _vllm_error(404, f"Loading lora {name} failed: No adapter found for {path}")
        rank = json.loads((path / "adapter_config.json").read_bytes())["r"]
        if rank > self._max_rank:
            return _vllm_error(
                500, f"LoRA rank {rank} is greater than max_lora_rank {self._max_rank}."
            )
        self.adapters[name] = path
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    async def _unload(self, request: Request) -> Response:
        name = (await request.json())["lora_name"]
        if self.adapters.pop(name, None) is None:
            return _vllm_error(404, f"The lora adapter '{name}' cannot be found.")
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        model, prompt = body["model"], body["prompt"]
        if model != self.base and model not in self.adapters:
            return _vllm_error(404, f"The model `{model}` does not exist.")
        if len(prompt) + body["max_tokens"] > self._context:
            return _vllm_error(400, f"This model's maximum context is {self._context} tokens.")
        assert body["stream"]  # nobody asks for the other form
        assert body["return_token_ids"]
        return StreamingResponse(
            self._events(body, self.adapters.get(model)), media_type="text/event-stream"
        )

    async def _events(self, body: dict[str, Any], adapter: Path | None) -> AsyncIterator[bytes]:
        self.at_work += 1
        try:
            number = 0
            async for event in self._honest_events(body, adapter):
                yield b"data: " + self.spoil(number, msgspec.json.encode(event)) + b"\n\n"
                number += 1
            yield b"data: [DONE]\n\n"
        finally:
            self.at_work -= 1

    async def _unstuck(self) -> None:
        while self.is_stuck:  # noqa: ASYNC110 - a test ends it from its own thread
            await asyncio.sleep(0.01)

    async def _honest_events(
        self, body: dict[str, Any], adapter: Path | None
    ) -> AsyncIterator[dict[str, object]]:
        prompt, made = body["prompt"], list[int]()
        sampler = _vllm_sampler(body)
        finish = None
        while finish is None:
            await asyncio.sleep(0)
            await self._unstuck()
            token = sampler.draw(self._logits([*prompt, *made], adapter))
            made.append(token.id)
            is_stop = token.id in body["stop_token_ids"]
            finish = "stop" if is_stop else "length" if len(made) == body["max_tokens"] else None
            choice = {
                "index": 0,
                "text": "",
                "logprobs": {"token_logprobs": [token.logprob], "tokens": ["?"]},
                "finish_reason": finish,
                "stop_reason": token.id if is_stop else None,
                "prompt_token_ids": prompt if len(made) == 1 else None,
                "token_ids": [token.id],
            }
            yield {"id": "cmpl-1", "model": body["model"], "choices": [choice]}
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(made)}
        yield {"id": "cmpl-1", "model": body["model"], "choices": [], "usage": usage}


def _vllm_error(status: int, message: str) -> Response:
    return JSONResponse({"error": {"message": message, "type": "", "code": status}}, status)


def _vllm_sampler(body: dict[str, Any]) -> Sampler:
    sampling = Sampling(
        seed=sha256(str(body["seed"]).encode()).digest(),
        temperature=body["temperature"],
        top_p=body["top_p"],
        top_k=None if body["top_k"] == -1 else body["top_k"],
        repetition_penalty=body["repetition_penalty"],
        presence_penalty=body["presence_penalty"],
        frequency_penalty=body["frequency_penalty"],
    )
    return Sampler(sampling, body["prompt"])
