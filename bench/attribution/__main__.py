"""Is attribution true? Its scores, and those of its peers, against retraining without the data.

`python -m bench.attribution` runs the tiny suite: for each data seed a Datanet of sixteen
contributors, one tuned model, and hundreds of retrainings without parts of the data, three seeds
each. Figures are given on data seeds 3 to 5, on which nothing is chosen; 0 to 2 are for choosing.
The same seeds give the same figures on one machine. `--smoke` runs all of it on texts and sizes
that mean nothing, for correctness only. `--attacks` gives what attacks bring instead: for each,
what was paid against what was deserved (`bench.attribution.attacks`).

`python -m bench.attribution score --train T --queries Q --recipe R --base DIR --out FILE` scores
data of others instead (`bench.attribution.score`).
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

if not __package__:  # started by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.attribution import ours, peers, score
from bench.attribution.attacks.rows import attack_rows
from bench.attribution.attacks.stage import stage
from bench.attribution.corpus import made_up_pages, read_pages
from bench.attribution.peers import Peer
from bench.attribution.results import (
    Scored,
    ceiling_rows,
    method_rows,
    nobody_rows,
    of_documents,
    of_release,
)
from bench.attribution.tiny import SMOKE, Scale, World, world
from bench.table import Row, options, run
from openledger.settings import load

RELEASED = "openledger"
_TARGETS = {  # of what is paid by
    "LDS contributor": 0.82,
    "LDS contributor, generated": 0.78,
    "leave-one-out correlation": 0.65,
    "payout error": 0.28,
    "area under the curve of nobody": 0.90,
    "contributors' part outside": 0.05,
}
_SEEDS = (3, 4, 5)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 1 when a target was missed."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["score"]:
        return score.write_scores(given[1:])
    parser = options(__doc__)
    cache = Path(load({}).home.cache)
    parser.add_argument("--suite", choices=["tiny"], default="tiny")
    parser.add_argument("--seeds", type=_numbers, default=_SEEDS, help="data seeds, as in 3,4,5")
    parser.add_argument("--cache", type=Path, default=cache, help="of packages and the small base")
    parser.add_argument("--attacks", action="store_true", help="only what attacks bring")
    return run(measure, parser.parse_args(given))


def measure(chosen: argparse.Namespace) -> list[Row]:
    """All rows."""
    disable_progress_bar()  # of every model that a peer loads
    torch.set_num_threads(1)  # the same sums in the same order, whatever the machine does
    if not chosen.smoke:
        pages, models = read_pages(chosen.cache / "packages"), chosen.cache / "models"
        if chosen.attacks:
            stages = [stage(pages, models, seed, Scale()) for seed in chosen.seeds]
            return attack_rows(stages, is_judged=True)
        worlds = [world(pages, models, seed, Scale()) for seed in chosen.seeds]
        return _rows(worlds, _TARGETS)
    with tempfile.TemporaryDirectory(prefix="openledger-bench-") as folder:
        attacked = [stage(made_up_pages(), Path(folder), 0, SMOKE)]
        rows = [] if chosen.attacks else _rows([world(made_up_pages(), Path(folder), 0, SMOKE)], {})
        return [*rows, *attack_rows(attacked, is_judged=False)]


def _rows(worlds: Sequence[World], targets: Mapping[str, float]) -> list[Row]:
    rows = ceiling_rows(worlds)
    paid = [ours.released(one.setting) for one in worlds]
    released = [of_release(one) for one in paid]
    rows += method_rows(RELEASED, worlds, released, targets)
    rows += nobody_rows(RELEASED, worlds, paid, targets)
    for name, method in {**_exact(), **peers.available()}.items():
        started = time.process_time()
        scored = [_scored(one, method) for one in worlds]
        seconds = time.process_time() - started
        rows += method_rows(name, worlds, scored, {})
        rows.append(Row(f"{name}: CPU time of a data seed", seconds / len(worlds), "s"))
    for name, reason in peers.left_out().items():
        print(f"{name} is left out: {reason}", file=sys.stderr)
    return rows


def _exact() -> dict[str, Peer]:
    return {
        "EK-FAC, end": lambda setting: ours.ekfac(setting, [setting.adapter]),
        "EK-FAC, a quarter": lambda setting: ours.ekfac(setting, [setting.checkpoints[0].adapter]),
        "EK-FAC, a quarter and end": lambda setting: ours.ekfac(
            setting, [setting.checkpoints[0].adapter, setting.adapter]
        ),
    }


def _scored(one: World, method: Peer) -> Scored:
    return of_documents(one, method(one.setting))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
