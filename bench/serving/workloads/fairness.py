"""One tenant who asks as often as he can, and seven who wait for each answer."""

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event

import msgspec
import numpy as np

from bench.serving.workloads.traffic import (
    Answer,
    Asker,
    Shape,
    all_at_once,
    engine_of,
    runner_of,
)
from bench.serving.world import World
from bench.table import Row
from openledger.serving.engine import Config
from openledger.serving.request import GenerationRequest


class FairnessPlan(msgspec.Struct, frozen=True):
    """The greedy tenant is many callers under one name, a polite one is one."""

    places: int  # answers made at the same time
    greed: int  # callers of the greedy tenant
    polite: int  # tenants
    calls: int  # of each polite tenant; who is through first ends it
    shape: Shape


def fairness(world: World, folder: Path, plan: FairnessPlan) -> list[Row]:
    """What the polite ones get of an equal share of all tokens, and who waits how long."""
    config = Config(
        context=plan.shape.prompt_tokens + plan.shape.answer_tokens + 1,
        max_active=plan.places,
        max_waiting=4 * plan.greed,
    )
    through = Event()
    greedy = [_for_ever(Asker(world, plan.shape, "greedy", n)) for n in range(plan.greed)]
    polite = [
        _some(Asker(world, plan.shape, f"polite {n}"), plan.calls, through)
        for n in range(plan.polite)
    ]
    with engine_of(runner_of(world, folder), config) as engine:
        answers = all_at_once(engine, [*polite, *greedy], through)
    return _rows(world, answers[: plan.polite], answers[plan.polite :])


def _for_ever(asker: Asker) -> Iterator[GenerationRequest]:
    while True:
        yield asker.ask([])


def _some(asker: Asker, calls: int, through: Event) -> Iterator[GenerationRequest]:
    for _ in range(calls):
        yield asker.ask([])
    through.set()  # the last one was read


def _rows(
    world: World, polite: Sequence[Sequence[Answer]], greedy: Sequence[Sequence[Answer]]
) -> list[Row]:
    got = [_tokens([one]) for one in polite]
    equal = (sum(got) + _tokens(greedy)) / (len(polite) + 1)
    name = f"{world.size.name}: {len(polite)} polite tenants beside a greedy one of {len(greedy)}"
    return [
        Row(f"{name}, share of an equal part, least", 100 * min(got) / equal, "%"),
        Row(f"{name}, share of an equal part, mean", 100 * statistics.mean(got) / equal, "%"),
        Row(f"{name}, wait for a place, median", 1_000 * _wait_s(polite, 50), "ms"),
        Row(f"{name}, wait for a place, p95", 1_000 * _wait_s(polite, 95), "ms"),
        Row(f"{name}, greedy one's wait, median", 1_000 * _wait_s(greedy, 50), "ms"),
    ]


def _tokens(callers: Sequence[Sequence[Answer]]) -> int:
    return sum(len(one.token_ids) for answers in callers for one in answers)


def _wait_s(callers: Sequence[Sequence[Answer]], percentile: float) -> float:
    waits = [one.usage.queue_s for answers in callers for one in answers]
    return float(np.percentile(waits, percentile))
