"""Adapters of rank 1 to 64 in one batch: right, and no dearer than as many bytes of one rank."""

import statistics
from pathlib import Path

from bench.serving.peers.contender import Cell
from bench.serving.peers.huggingface import PeftMixed
from bench.serving.peers.own import Own
from bench.serving.world import World, with_adapters
from bench.table import Row, at_most

MIXED = (1, 2, 4, 8, 16, 32, 64, 1)
EVEN = (16,) * len(MIXED)  # as many bytes
APART = 1e-4  # of logits in float32, at most


def mixed_ranks(world: World, folder: Path, rounds: int, tokens: int) -> list[Row]:
    """Logits apart from peft's, and the speed of both batches in turns."""
    mixed = with_adapters(world, folder / "mixed", MIXED)
    own = Own(mixed, "float32", folder)
    apart = abs(own.logits(len(MIXED)) - PeftMixed(mixed, "float32").logits(len(MIXED))).max()
    name = f"{world.size.name} B{len(MIXED)}"
    rows = [at_most(f"{name}, ranks 1 to 64: logits apart from peft", float(apart), "", APART)]
    even = with_adapters(world, folder / "even", EVEN)
    engines = {
        "ranks 1 to 64": Own(mixed, "bfloat16", folder),
        "rank 16, as many bytes": Own(even, "bfloat16", folder),
    }
    cell = Cell(len(MIXED), len(MIXED))
    costs: dict[str, list[float]] = {title: [] for title in engines}
    for turn in range(rounds + 1):
        for title, one in engines.items():
            cost = one.run(cell, tokens if turn else 2)
            costs[title].extend([cost.whole_s] if turn else [])
    for title, found in costs.items():
        speed = cell.rows * tokens / statistics.median(found)
        rows.append(Row(f"{name}, {title}", speed, "tok/CPU-s"))
    return rows
