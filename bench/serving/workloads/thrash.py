"""More adapters in use than memory holds: how much longer the first token takes."""

import itertools
import random
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from bench.serving.workloads.many import Pool
from bench.serving.workloads.traffic import Answer, Asker, OwnEngine, Shape, all_at_once, engine_of
from bench.serving.world import World
from bench.table import Row, at_most
from openledger.core.types import Digest
from openledger.serving.engine import Config

MOST = 2.0  # times the first token's time when all adapters are in memory


class ThrashPlan(msgspec.Struct, frozen=True):
    """Callers ask under any of `slots` adapters, then under any of twice as many."""

    slots: int  # adapters that memory holds
    callers: int
    calls: int  # of each caller, in a round
    rounds: int
    shape: Shape
    is_judged: bool = True


def thrash(world: World, folder: Path, plan: ThrashPlan) -> list[Row]:
    """The 95th percentile of the time to the first token, within memory and beyond it."""
    pool = Pool(world, folder)
    config = Config(
        context=plan.shape.prompt_tokens + plan.shape.answer_tokens + 1,
        max_active=plan.callers,
        adapter_bytes=plan.slots * pool.read(pool.ref(0)).size_bytes,
    )
    with engine_of(pool, config) as engine:
        for number in range(2 * plan.slots):
            engine.load(pool.ref(number))
        within, beyond = _rounds(engine, world, plan)
    name = f"{world.size.name} B{plan.callers}: first token, p95"
    inside = f"{plan.slots} adapters, all in memory"
    rows = [
        Row(f"{name}, {inside}", 1_000 * _p95(within), "ms"),
        Row(f"{name}, twice as many", 1_000 * _p95(beyond), "ms"),
        Row(f"{name}, {inside}, CPU", 1_000 * _p95_cpu(within), "CPU-ms"),
        Row(f"{name}, twice as many, CPU", 1_000 * _p95_cpu(beyond), "CPU-ms"),
    ]
    if plan.is_judged:
        # On a busy machine others' turns hide what the wall clock says, and CPU time hides waits.
        ratio = max(_p95(beyond) / _p95(within), _p95_cpu(beyond) / _p95_cpu(within))
        title = f"{name}: twice as many over all in memory, the worse of both"
        rows.append(at_most(title, ratio, "x", MOST))
    return rows


def _rounds(engine: OwnEngine, world: World, plan: ThrashPlan) -> tuple[list[Answer], list[Answer]]:
    """Answers within memory and beyond it, in turns; the first of each warms up."""
    found: tuple[list[Answer], list[Answer]] = ([], [])
    for turn, times in itertools.product(range(plan.rounds + 1), (1, 2)):
        chooser = random.Random(turn)  # noqa: S311 - which adapter, no secret
        callers = []
        for caller in range(plan.callers):
            asker = Asker(world, plan.shape, f"{times} {turn} {caller}")
            drawn = chooser.choices(range(times * plan.slots), k=plan.calls if turn else 2)
            callers.append([asker.ask([Digest(f"{number:064x}")]) for number in drawn])
        answers = all_at_once(engine, callers)
        if turn:
            found[times - 1].extend(itertools.chain.from_iterable(answers))
    return found


def _p95(answers: Sequence[Answer]) -> float:
    return float(np.percentile([one.first_s for one in answers], 95))


def _p95_cpu(answers: Sequence[Answer]) -> float:
    return float(np.percentile([one.first_cpu_s for one in answers], 95))
