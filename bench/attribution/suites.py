"""The suites by name, and their worlds, made one after another or side by side."""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import msgspec
import torch
from msgspec.structs import replace

from bench.attribution import smollm2, tiny
from bench.attribution.corpus import Pages, made_up_pages, read_pages
from bench.attribution.kept import Kept
from bench.attribution.world import Retrainings, World

TINY, SMOKE = "tiny", "smoke"


class Suite(msgspec.Struct, frozen=True):
    """What is done unless told otherwise."""

    seeds: tuple[int, ...]  # on which nothing was chosen
    retrainings: Retrainings


SUITES = {
    SMOKE: Suite((0,), tiny.SMOKE.retrainings),
    TINY: Suite((3, 4, 5), Retrainings()),
} | {name: Suite((3,), Retrainings(people=24, documents=0, together=2)) for name in smollm2.SUITES}


class Draw(msgspec.Struct, frozen=True):
    """One data seed of one suite."""

    suite: str
    cache: Path
    seed: int
    retrainings: Retrainings

    @property
    def kept(self) -> Kept:
        """What retraining has shown before."""
        return Kept(self.cache / "bench-attribution")

    def tiny(self) -> tuple[Pages, tiny.Scale]:
        """The pages and the sizes of a tiny suite."""
        is_smoke = self.suite == SMOKE
        pages = made_up_pages() if is_smoke else read_pages(self.cache / "packages")
        return pages, replace(
            tiny.SMOKE if is_smoke else tiny.Scale(), retrainings=self.retrainings
        )


def worlds_of(draws: Sequence[Draw], jobs: int) -> list[World]:
    """One world for each draw; with several jobs they fill what is kept, which is read here."""
    if jobs > 1:
        with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
            deque(pool.map(_retrain, draws), maxlen=0)  # raises what any of them raised
    return [_world(draw) for draw in draws]


def _retrain(draw: Draw) -> None:
    _world(draw)


def _world(draw: Draw) -> World:
    torch.set_num_threads(1)  # the same sums in the same order, whatever the machine does
    if draw.suite in smollm2.SUITES:
        return smollm2.world(draw.suite, draw.cache, draw.seed, draw.retrainings, draw.kept)
    pages, scale = draw.tiny()
    return tiny.world(pages, draw.cache / "models", draw.seed, scale, draw.kept)
