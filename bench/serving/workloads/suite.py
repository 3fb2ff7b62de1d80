"""All workloads of the embedded engine, one after the other."""

from pathlib import Path

import msgspec

from bench.serving.workloads.cancel import CancelPlan, cancel_storm
from bench.serving.workloads.fairness import FairnessPlan, fairness
from bench.serving.workloads.loading import loading
from bench.serving.workloads.many import ManyPlan, many_adapters
from bench.serving.workloads.mixes import mixes
from bench.serving.workloads.ranks import mixed_ranks
from bench.serving.workloads.streams import StreamsPlan, streams
from bench.serving.workloads.thrash import ThrashPlan, thrash
from bench.serving.workloads.traffic import Shape
from bench.serving.world import World
from bench.table import Row


class Load(msgspec.Struct, frozen=True):
    """How much of each."""

    rounds: int
    tokens: int  # of each answer, where all have equally many
    many: ManyPlan
    thrash: ThrashPlan
    fairness: FairnessPlan
    cancel: CancelPlan
    streams: int
    resident: int  # adapters whose memory is measured
    is_judged: bool = True  # speeds and sizes; right answers are judged always


_SHAPE = Shape(16, 16)
LOAD = Load(
    rounds=5,
    tokens=16,
    many=ManyPlan((10, 100, 1_000, 10_000), slots=256, callers=8, calls=4, rounds=7, shape=_SHAPE),
    thrash=ThrashPlan(slots=16, callers=8, calls=8, rounds=4, shape=_SHAPE),
    fairness=FairnessPlan(places=8, greed=32, polite=7, calls=16, shape=_SHAPE),
    cancel=CancelPlan(places=32, callers=128, shape=_SHAPE),
    streams=200,
    resident=256,
)
LOAD_SMOKE = Load(
    rounds=1,
    tokens=3,
    many=ManyPlan((2, 20), 8, 4, 2, 1, Shape(16, 4), is_judged=False),
    thrash=ThrashPlan(4, 2, 2, 1, Shape(16, 4), is_judged=False),
    fairness=FairnessPlan(4, 8, 3, 4, Shape(16, 8)),
    cancel=CancelPlan(4, 16, Shape(8, 16)),
    streams=24,
    resident=8,
    is_judged=False,
)


def under_load(world: World, folder: Path, load: Load, seconds: float) -> list[Row]:
    """The rows of all workloads; `seconds` is how long the streams last."""
    rows = many_adapters(world, folder, load.many)
    rows += thrash(world, folder, load.thrash)
    rows += mixed_ranks(world, folder, load.rounds, load.tokens)
    rows += mixes(world, folder, load.rounds, load.tokens)
    rows += fairness(world, folder, load.fairness)
    rows += cancel_storm(world, folder, load.cancel)
    rows += streams(world, folder, StreamsPlan(load.streams, seconds, Shape(40, 32)))
    rows += loading(world, folder, 2 * load.rounds, is_judged=load.is_judged)
    return rows
