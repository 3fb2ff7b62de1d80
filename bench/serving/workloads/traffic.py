"""Callers of an engine: each asks, reads its answer to the end and asks again."""

import random
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import msgspec

from bench.serving.world import World
from openledger.core.types import Digest
from openledger.serving.embedded import EmbeddedEngine
from openledger.serving.engine import Config, Engine
from openledger.serving.llama.packed import PackedAdapter
from openledger.serving.request import GenerationRequest, MixMember, Sampling, Usage
from openledger.serving.runner import LlamaRunner

_PATIENCE_S = 600.0
_GREEDY = Sampling(bytes(32), temperature=0.0)
_RESERVED = 3  # the first ids are control tokens

OwnEngine = EmbeddedEngine[PackedAdapter]


class Answer(msgspec.Struct, frozen=True):
    """What one caller got for one request."""

    request: GenerationRequest
    token_ids: tuple[int, ...]
    first_s: float  # from asking to the first token, by the clock on the wall
    first_cpu_s: float  # the same by the CPU time of this process
    usage: Usage
    is_broken_off: bool = False  # by the caller, whatever the engine had made by then

    @property
    def is_whole(self) -> bool:
        """Whether it has as many tokens as were asked for."""
        return len(self.token_ids) == self.request.max_tokens


class Shape(msgspec.Struct, frozen=True):
    """How long requests are, in tokens."""

    prompt_tokens: int
    answer_tokens: int


@contextmanager
def engine_of(runner: LlamaRunner, config: Config) -> Iterator[OwnEngine]:
    """An engine on one thread of arithmetic, closed at the end."""
    engine = EmbeddedEngine(runner, msgspec.structs.replace(config, threads=1))
    try:
        yield engine
    finally:
        engine.close()


def runner_of(world: World, folder: Path) -> LlamaRunner:
    """In bfloat16."""
    return LlamaRunner(world.bases["bfloat16"], folder / "packed")


class Asker:
    """Makes a caller's requests, whose prompts are random and follow from who it is."""

    def __init__(self, world: World, shape: Shape, tenant: str, caller: int = 0) -> None:
        self._vocabulary = world.size.vocabulary
        self._shape = shape
        self._tenant = tenant
        self._name = f"{tenant} {caller}"
        self._random = random.Random(self._name)  # noqa: S311 - prompts, not secrets
        self._count = 0

    def ask(self, mix: Sequence[Digest]) -> GenerationRequest:
        """A fresh request under the mean of these adapters; none: the base alone."""
        self._count += 1
        ids = range(_RESERVED, self._vocabulary)
        return GenerationRequest(
            id=f"{self._name} {self._count}",
            tenant=self._tenant,
            prompt_ids=tuple(self._random.choices(ids, k=self._shape.prompt_tokens)),
            mix=tuple(MixMember(digest, 1 / len(mix)) for digest in mix),
            sampling=_GREEDY,
            max_tokens=self._shape.answer_tokens,
            stop_ids=frozenset(),
            deadline_s=_PATIENCE_S,
        )


def answer(engine: Engine, request: GenerationRequest, stop: Event | None = None) -> Answer:
    """Ask and read; when `stop` is set the answer is broken off."""
    asked_s, asked_cpu_s = time.perf_counter(), time.process_time()
    stream = engine.submit(request)
    token_ids: list[int] = []
    first_s = first_cpu_s = 0.0
    is_broken_off = False
    for token in stream:
        if not token_ids:
            first_s = time.perf_counter() - asked_s
            first_cpu_s = time.process_time() - asked_cpu_s
        token_ids.append(token.id)
        if stop is not None and stop.is_set():
            stream.cancel()
            is_broken_off = True
    return Answer(request, tuple(token_ids), first_s, first_cpu_s, stream.usage(), is_broken_off)


def all_at_once(
    engine: Engine, callers: Sequence[Iterable[GenerationRequest]], stop: Event | None = None
) -> list[list[Answer]]:
    """Every caller on a thread of its own, one request after the other; answers by caller.

    A caller ends with its requests, or when `stop` is set.
    """

    def read(requests: Iterable[GenerationRequest]) -> list[Answer]:
        found = []
        for request in requests:
            found.append(answer(engine, request, stop))
            if stop is not None and stop.is_set():
                break
        return found

    with ThreadPoolExecutor(len(callers)) as pool:
        return list(pool.map(read, callers))


def alone(engine: Engine, request: GenerationRequest) -> Answer:
    """The same request by itself, under another payer's name, so that nothing of it is cached."""
    return answer(
        engine,
        msgspec.structs.replace(request, id=f"{request.id} alone", tenant=f"{request.id} alone"),
    )
