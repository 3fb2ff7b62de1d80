"""Most callers hang up, at every stage of their answers; those who stay notice nothing."""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from bench.serving.workloads.traffic import (
    Answer,
    Asker,
    OwnEngine,
    Shape,
    alone,
    answer,
    engine_of,
    runner_of,
)
from bench.serving.world import World
from bench.table import Row, exactly
from openledger.serving.engine import Config
from openledger.serving.request import GenerationRequest

_FREE_S = 10.0  # at most, until everything is free again


class CancelPlan(msgspec.Struct, frozen=True):
    """Three of four callers hang up, before or after some of their tokens."""

    places: int  # answers made at the same time
    callers: int
    shape: Shape


class _Call(msgspec.Struct, frozen=True):
    request: GenerationRequest
    read: int | None  # tokens until the caller hangs up; None: he stays


def cancel_storm(world: World, folder: Path, plan: CancelPlan) -> list[Row]:
    """What is not free again afterwards, and how many of the others' answers differ."""
    config = Config(
        context=plan.shape.prompt_tokens + plan.shape.answer_tokens + 1,
        max_active=plan.places,
        max_waiting=2 * plan.callers,
    )
    with engine_of(runner_of(world, folder), config) as engine:
        for ref in world.refs:
            engine.load(ref)
        calls = _calls(world, plan)
        with ThreadPoolExecutor(len(calls)) as pool:
            answers = list(pool.map(lambda call: _read(engine, call), calls))
        freed_s = _free_again_s(engine)
        stayed = [one for one in answers if one is not None]
        differing = sum(alone(engine, one.request).token_ids != one.token_ids for one in stayed)
        cancelled = engine.stats().finished["cancelled"]
        left = _in_use(engine)
    name = f"{world.size.name}: {len(calls) - len(stayed)} of {len(calls)} callers hang up"
    return [
        Row(f"{name}, answers that ended as cancelled", cancelled, ""),
        Row(f"{name}, until everything is free", 1_000 * freed_s, "ms"),
        exactly(f"{name}, places, blocks and adapters not free again", left, "", 0),
        exactly(f"{name}, answers of others that differ", differing, "", 0),
    ]


def _calls(world: World, plan: CancelPlan) -> list[_Call]:
    chooser = random.Random(0)  # noqa: S311 - who hangs up, no secret
    calls = []
    for number in range(plan.callers):
        ref = world.refs[number % len(world.refs)]
        request = Asker(world, plan.shape, f"caller {number}").ask([ref.digest])
        read = chooser.randrange(plan.shape.answer_tokens) if number % 4 else None
        calls.append(_Call(request, read))
    return calls


def _read(engine: OwnEngine, call: _Call) -> Answer | None:
    if call.read is None:
        return answer(engine, call.request)
    stream = engine.submit(call.request)
    for _ in range(call.read):
        next(stream)
    stream.cancel()
    return None


def _free_again_s(engine: OwnEngine) -> float:
    started = time.perf_counter()
    while _in_use(engine) and time.perf_counter() - started < _FREE_S:
        time.sleep(0.001)
    return time.perf_counter() - started


def _in_use(engine: OwnEngine) -> int:
    stats = engine.stats()
    references = sum(one.references for one in engine.residency())
    return stats.active + stats.waiting + stats.kv_blocks_used + references
