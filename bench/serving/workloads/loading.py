"""One adapter into memory, warm and cold, beside `peft.load_adapter`.

Cold is a file whose pages the system was asked to drop, and was seen to have dropped.
"""

import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from bench.serving.workloads.traffic import runner_of
from bench.serving.world import World, first_adapters, on_peft
from bench.table import Row, at_least
from openledger.lm.checkpoint import WEIGHTS

LEAST = 50.0  # times as fast as peft
_WHO = ("own", "peft")


class Taken(msgspec.Struct, frozen=True):
    """One loading."""

    wall_s: float
    cpu_s: float
    is_cold: bool


def loading(world: World, folder: Path, rounds: int, *, is_judged: bool = True) -> list[Row]:
    """Time to load, both ways, in turns; ours reads what was packed before."""
    runner = runner_of(world, folder)
    model = on_peft(first_adapters(world, 1), "float32")
    found: dict[tuple[str, bool], list[Taken]] = {}
    for turn in range(rounds + 1):
        ref = world.refs[turn % len(world.refs)]
        runner.read(ref)  # packs it
        for is_cold in (False, True):
            name = f"{turn} {is_cold}"
            peft_load = partial(model.load_adapter, ref.path, adapter_name=name)
            own = _timed(partial(runner.read, ref), folder / "packed" / ref.digest, is_cold)
            peft = _timed(peft_load, ref.path / WEIGHTS, is_cold)
            model.delete_adapter(name)
            if turn:
                found.setdefault(("own", is_cold), []).append(own)
                found.setdefault(("peft", is_cold), []).append(peft)
    return _rows(f"{world.size.name}: loading an adapter", found, is_judged=is_judged)


def drop(path: Path) -> bool:
    """Ask the system to forget a file's pages; whether it did."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            return os.preadv(file, [bytearray(1)], 0, os.RWF_NOWAIT) == 0
        except BlockingIOError:
            return True  # the first byte is not in memory
        except OSError:
            return False  # this file system cannot tell
    finally:
        os.close(file)


def _rows(name: str, found: dict[tuple[str, bool], list[Taken]], *, is_judged: bool) -> list[Row]:
    warm = {who: 1_000 * statistics.median(t.cpu_s for t in found[who, False]) for who in _WHO}
    rows = [Row(f"{name}, warm, {who}", warm[who], "CPU-ms") for who in _WHO]
    cold = {who: _cold_ms(found[who, True]) for who in _WHO}
    rows += [Row(f"{name}, page cache dropped, {who}", cold[who], "ms") for who in _WHO]
    if is_judged:
        rows.append(
            at_least(f"{name}, warm, peft over own", warm["peft"] / warm["own"], "x", LEAST)
        )
        mine, theirs = cold["own"], cold["peft"]
        ratio = None if mine is None or theirs is None else theirs / mine
        rows.append(at_least(f"{name}, page cache dropped, peft over own", ratio, "x", LEAST))
    return rows


def _cold_ms(found: list[Taken]) -> float | None:
    """None: not once were the pages dropped."""
    cold = [one.wall_s for one in found if one.is_cold]
    return 1_000 * statistics.median(cold) if cold else None


def _timed(load: Callable[[], object], path: Path, is_cold: bool) -> Taken:
    was_dropped = is_cold and drop(path)
    started, started_cpu = time.perf_counter(), time.process_time()
    load()
    return Taken(time.perf_counter() - started, time.process_time() - started_cpu, was_dropped)
