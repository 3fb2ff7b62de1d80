"""From ten adapters to ten thousand, asked for as Zipf's law has it."""

import itertools
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench.serving.workloads.traffic import (
    Asker,
    OwnEngine,
    Shape,
    all_at_once,
    engine_of,
)
from bench.serving.world import World
from bench.table import Row, at_most
from openledger.core.types import Digest
from openledger.serving.engine import AdapterRef, Config
from openledger.serving.llama.packed import PackedAdapter
from openledger.serving.request import GenerationRequest
from openledger.serving.runner import LlamaRunner

MOST_LOST = 5.0  # % of the throughput, from the fewest adapters to the most


class ManyPlan(msgspec.Struct, frozen=True):
    """How far it goes."""

    counts: tuple[int, ...]  # rising
    slots: int  # adapters that memory holds
    callers: int  # each waits for its answer before it asks again
    calls: int  # of each caller, in a round
    rounds: int
    shape: Shape
    is_judged: bool = True


class _Round(msgspec.Struct, frozen=True):
    speed: float  # tokens for each CPU-second
    loads: int  # adapters that were not in memory
    calls: int


class Pool(LlamaRunner):
    """Behind any number of adapters stand a few files, all of which are in the page cache.

    Each reading does all its work: reads, checks, unpacks.
    """

    def __init__(self, world: World, folder: Path) -> None:
        super().__init__(world.bases["bfloat16"], folder / "packed")
        self._refs = world.refs

    def read(self, ref: AdapterRef) -> PackedAdapter:
        """See `Runner.read`."""
        return super().read(self._refs[int(ref.digest, 16) % len(self._refs)])

    def ref(self, number: int) -> AdapterRef:
        """Of one of any number of adapters."""
        return AdapterRef(Digest(f"{number:064x}"), self._refs[0].path)


def many_adapters(world: World, folder: Path, plan: ManyPlan) -> list[Row]:
    """Throughput by the number of adapters, and how much of it the last step loses."""
    pool = Pool(world, folder)
    each = pool.read(pool.ref(0)).size_bytes
    config = Config(
        context=plan.shape.prompt_tokens + plan.shape.answer_tokens + 1,
        max_active=plan.callers,
        adapter_bytes=plan.slots * each,
    )
    with engine_of(pool, config) as engine:
        for number in range(plan.counts[-1]):
            engine.load(pool.ref(number))
        found = _rounds(engine, world, plan)
    name = f"{world.size.name} B{plan.callers}"
    rows = []
    for count, rounds in found.items():
        title = f"{name}, {count} adapters by Zipf's law, {plan.slots} in memory"
        rows.append(Row(title, statistics.median(one.speed for one in rounds), "tok/CPU-s"))
        read = sum(one.loads for one in rounds) / sum(one.calls for one in rounds)
        rows.append(Row(f"{title}, adapters read for 100 calls", 100 * read, ""))
    if plan.is_judged:
        least, most = plan.counts[0], plan.counts[-1]
        lost = 100 * statistics.median(
            1 - after.speed / before.speed
            for before, after in zip(found[least], found[most], strict=True)
        )
        rows.append(
            at_most(f"{name}: speed lost, {least} to {most} adapters", lost, "%", MOST_LOST)
        )
    return rows


def _rounds(engine: OwnEngine, world: World, plan: ManyPlan) -> dict[int, list[_Round]]:
    """By the number of adapters, in turns; the first of each warms up."""
    found: dict[int, list[_Round]] = {count: [] for count in plan.counts}
    for turn, count in itertools.product(range(plan.rounds + 1), plan.counts):
        chooser = random.Random(turn)  # noqa: S311 - which adapter, no secret
        weights = [1 / (place + 1) for place in range(count)]
        callers = []
        for caller in range(plan.callers):
            asker = Asker(world, plan.shape, f"{count} {turn} {caller}")
            drawn = chooser.choices(range(count), weights, k=plan.calls if turn else 1)
            callers.append([asker.ask([Digest(f"{number:064x}")]) for number in drawn])
        one = _timed(engine, callers)
        found[count].extend([one] if turn else [])
    return found


def _timed(engine: OwnEngine, callers: Sequence[Sequence[GenerationRequest]]) -> _Round:
    started, loads = time.process_time(), engine.stats().adapter_loads
    answers = list(itertools.chain.from_iterable(all_at_once(engine, callers)))
    seconds = time.process_time() - started
    return _Round(
        speed=sum(len(one.token_ids) for one in answers) / seconds,
        loads=engine.stats().adapter_loads - loads,
        calls=len(answers),
    )
