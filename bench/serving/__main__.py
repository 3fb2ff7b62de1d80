"""Many adapters in one batch: the embedded engine's arithmetic beside transformers and peft.

All run in one process on one thread, in turns, on the same random weights, adapters and prompts;
figures are tokens made for each second of CPU time, prompts included, medians over the rounds.
First of all logits must agree with peft's. Targets apply to like precision.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch

if not __package__:  # started by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.serving.engines import Cell, Contender, Cost, Own, Peft, Transformers
from bench.serving.world import SMALL, SMALLEST, SMOLLM2, Needs, Size, World, make_world
from bench.table import Row, at_least, at_most, options, run
from openledger.serving.runner import LlamaRunner

GRID = [Cell(1, 0), Cell(1, 1), Cell(8, 0), Cell(8, 1), Cell(8, 8)]
GRID += [Cell(32, 0), Cell(32, 1), Cell(32, 8), Cell(32, 32)]
QUICK = [Cell(1, 0), Cell(1, 1), Cell(8, 0), Cell(8, 8), Cell(32, 0), Cell(32, 32)]
_PRECISIONS = ("float32", "bfloat16")
_APART = 1e-4  # of logits in float32, at most


class Plan(msgspec.Struct, frozen=True):
    """How much is measured on one model."""

    size: Size
    cells: list[Cell]
    rounds: int
    tokens: int  # of each answer
    prompt_tokens: int
    is_judged: bool = True  # whether speeds have targets


Costs = dict[tuple[str, Cell], list[Cost]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 1 when a target was missed."""
    parser = options(__doc__)
    parser.add_argument("--quick", action="store_true", help="the small model and fewer cells")
    parser.add_argument("--rounds", type=int, default=3)
    return run(measure, parser.parse_args(arguments))


def measure(chosen: argparse.Namespace) -> list[Row]:
    """All rows."""
    torch.set_num_threads(1)
    if chosen.smoke:
        plans = [Plan(SMALLEST, [Cell(1, 0), Cell(4, 4)], 1, 3, 5, is_judged=False)]
    elif chosen.quick:
        plans = [Plan(SMALL, QUICK, chosen.rounds, 16, 16)]
    else:
        plans = [
            Plan(SMALL, GRID, chosen.rounds, 16, 16),
            Plan(SMOLLM2, GRID, chosen.rounds, 6, 16),
        ]
    rows = []
    for plan in plans:
        with tempfile.TemporaryDirectory(prefix="openledger-serving-") as scratch:
            rows += _measured(plan, Path(scratch))
    return rows


def _measured(plan: Plan, folder: Path) -> list[Row]:
    most = max(cell.rows for cell in plan.cells)
    adapters = max(1, *(cell.adapters for cell in plan.cells))
    world = make_world(folder, plan.size, Needs(adapters, most, plan.prompt_tokens, plan.tokens))
    own = [Own(world, precision, folder) for precision in (*_PRECISIONS, "int8")]
    pefts = [Peft(world, precision) for precision in _PRECISIONS]
    apart = abs(own[0].logits(most) - pefts[0].logits(most)).max()
    gate = at_most(f"{plan.size.name}: logits apart from peft", float(apart), "", _APART)
    if not gate.is_good:
        return [gate]  # the speed of a wrong answer says nothing
    peers: list[Contender] = [Transformers(world, precision) for precision in _PRECISIONS]
    costs = _in_turns([*peers, *pefts, *own], plan)
    loads = _loading(world, folder, plan)
    return [gate, *_speeds(costs, plan), *_verdicts(costs, plan), *loads]


def _in_turns(contenders: Sequence[Contender], plan: Plan) -> Costs:
    """Every round has each engine once in each cell; one more round before warms up."""
    costs: Costs = {}
    for turn in range(plan.rounds + 1):
        for cell in plan.cells:
            for one in contenders:
                if one.can(cell):
                    cost = one.run(cell, plan.tokens if turn else 2)
                    costs.setdefault((one.name, cell), []).extend([cost] if turn else [])
    return costs


def _speeds(costs: Costs, plan: Plan) -> list[Row]:
    rows = []
    for (engine, cell), found in costs.items():
        name, tokens = f"{plan.size.name} {cell.name}: {engine}", cell.rows * plan.tokens
        rows.append(Row(name, tokens / statistics.median(c.whole_s for c in found), "tok/CPU-s"))
        if any(cost.decode_s is not None for cost in found):
            rows.append(Row(f"{name}, decode", tokens / _decode_s(found), "tok/CPU-s"))
    return rows


def _verdicts(costs: Costs, plan: Plan) -> list[Row]:
    rows = []
    for precision in _PRECISIONS:
        for cell, peer, least in (
            (Cell(8, 8), "peft mixed", 3.0),
            (Cell(32, 32), "peft mixed", 5.0),
            (Cell(32, 0), "transformers", 1.3),
        ):
            theirs = costs.get((f"{peer} {precision}", cell))
            if theirs and plan.is_judged:
                mine = costs[f"own {precision}", cell]
                ratio = _whole_s(theirs) / _whole_s(mine)
                name = f"{plan.size.name} {cell.name}: own over {peer}, {precision}"
                rows.append(at_least(name, ratio, "x", least))
        plain, full = (costs.get((f"own {precision}", Cell(32, n))) for n in (0, 32))
        if plain and full and plan.is_judged:
            lost = 100 * (1 - _decode_s(plain) / _decode_s(full))
            name = f"{plan.size.name} B32N32: decode speed lost to adapters, {precision}"
            rows.append(at_most(name, lost, "%", 10.0 if precision == "float32" else 25.0))
    return rows


def _loading(world: World, folder: Path, plan: Plan) -> list[Row]:
    """One adapter from a file packed before, beside peft's `load_adapter` of its folder."""
    runner = LlamaRunner(world.bases["bfloat16"], folder / "packed")
    model = Peft(msgspec.structs.replace(world, adapters=world.adapters[:1]), "float32").model
    ours, theirs = [], []
    for place, ref in enumerate(world.refs[: 2 + plan.rounds]):
        started = time.process_time()
        runner.read(ref)
        ours.append(time.process_time() - started)
        started = time.process_time()
        model.load_adapter(ref.path, adapter_name=f"loaded {place}")
        theirs.append(time.process_time() - started)
    mine, peft = 1_000 * statistics.median(ours), 1_000 * statistics.median(theirs)
    name = f"{plan.size.name}: loading an adapter"
    rows = [Row(f"{name}, own", mine, "CPU-ms"), Row(f"{name}, peft", peft, "CPU-ms")]
    if plan.is_judged:
        rows.append(at_least(f"{name}, peft over own", peft / mine, "x", 50.0))
    return rows


def _whole_s(found: Sequence[Cost]) -> float:
    return statistics.median(cost.whole_s for cost in found)


def _decode_s(found: Sequence[Cost]) -> float:
    return statistics.median(c.decode_s for c in found if c.decode_s is not None)


if __name__ == "__main__":
    raise SystemExit(main())
