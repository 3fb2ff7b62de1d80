"""Is attribution true? Its scores, and those of its peers, against retraining without the data.

`python -m bench.attribution` runs the tiny suite: for each data seed a Datanet of sixteen
contributors, one tuned model, and hundreds of retrainings without parts of the data, three seeds
each. Figures are given on data seeds 3 to 5, on which nothing is chosen; 0 to 2 are for choosing.
The same seeds give the same figures on one machine. `--smoke` runs all of it on texts and sizes
that mean nothing, for correctness only. `--attacks` gives what attacks bring instead: for each,
what was paid against what was deserved (`bench.attribution.attacks`).

`--suite music` and `--suite manual` are the same on SmolLM2-135M, tuned as `train` tunes it. A
retraining takes minutes there and all of them hours. What they showed is kept on disk, in all
suites but the smoke run: a run that was stopped goes on where it was, and one of more halves or
more LoRA seeds (`--halves`, `--lora-seeds`) adds only these. `--jobs 2` retrains for two data seeds
at a time, each on a thread of its own, with the same figures.

`python -m bench.attribution score --train T --queries Q --recipe R --base DIR --out FILE` scores
data of others instead (`bench.attribution.score`).
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace
from transformers.utils.logging import disable_progress_bar

if not __package__:  # started by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.attribution import ours, peers, score, smollm2
from bench.attribution.attacks.rows import attack_rows
from bench.attribution.attacks.stage import stage
from bench.attribution.peers import Peer
from bench.attribution.results import (
    Scored,
    ceiling_rows,
    method_rows,
    nobody_rows,
    of_documents,
    of_release,
)
from bench.attribution.setting import Setting
from bench.attribution.suites import SMOKE, SUITES, TINY, Draw, worlds_of
from bench.attribution.world import World
from bench.table import Row, options, run
from openledger.attribution.card.subsets import LEAST_ADAPTERS
from openledger.lm.lora import Adapter, LoraPair
from openledger.settings import load

RELEASED = "openledger"
AUDITED = "openledger audited"
_TARGETS = {  # of what is paid by
    "LDS contributor": 0.82,
    "LDS contributor, generated": 0.78,
    "leave-one-out correlation": 0.65,
    "payout error": 0.28,
    "area under the curve of nobody": 0.90,
    "contributors' part outside": 0.05,
}
_AUDITED_TARGETS = {
    "LDS contributor": 0.88,
    "leave-one-out correlation": 0.75,
    "payout error": 0.22,
}
# What runs on SmolLM2 besides ours; the packages' own EK-FAC was not tried on so large a model.
_SMOLLM2_PEERS = ("random", "document size", "bm25", "longest span", "MiniLM", "gradient dot")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 1 when a target was missed."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["score"]:
        return score.write_scores(given[1:])
    parser = options(__doc__)
    cache = Path(load({}).home.cache)
    parser.add_argument("--suite", choices=[TINY, *smollm2.SUITES], default=TINY)
    parser.add_argument("--attacks", action="store_true", help="only what attacks bring (tiny)")
    parser.add_argument("--seeds", type=_numbers, help="data seeds, as in 3,4,5")
    parser.add_argument("--halves", type=int, help="retrainings on halves of the contributors")
    parser.add_argument("--lora-seeds", type=int, help="trainings behind each figure of the truth")
    parser.add_argument(
        "--half-adapters",
        type=int,
        default=32,
        help="that the audited rows are corrected by; 0: no such rows",
    )
    parser.add_argument("--jobs", type=int, default=1, help="data seeds retrained at a time")
    parser.add_argument(
        "--cache", type=Path, default=cache, help="of packages, models, retrainings"
    )
    chosen = parser.parse_args(given)
    if chosen.attacks and chosen.suite != TINY:
        parser.error("--attacks is measured on the tiny suite only: leave --suite out")
    return run(measure, chosen)


def measure(chosen: argparse.Namespace) -> list[Row]:
    """All rows."""
    disable_progress_bar()  # of every model that a peer loads
    if chosen.smoke:
        # A folder of its own: nothing of another run is believed.
        with tempfile.TemporaryDirectory(prefix="openledger-bench-") as folder:
            draws = _draws(chosen, SMOKE, Path(folder))
            attacked = attack_rows([stage(one) for one in draws], is_judged=False)
            if chosen.attacks:
                return attacked
            worlds = worlds_of(draws, chosen.jobs)
            rows = [*_rows(worlds, peers.PEERS, {}), *_audited_rows(worlds, LEAST_ADAPTERS, {})]
            return [*rows, *attacked]
    draws = _draws(chosen, chosen.suite, chosen.cache)
    if chosen.attacks:
        return attack_rows([stage(one) for one in draws], is_judged=True)
    worlds = worlds_of(draws, chosen.jobs)
    is_tiny = chosen.suite == TINY
    rows = _rows(worlds, peers.PEERS if is_tiny else _SMOLLM2_PEERS, _TARGETS if is_tiny else {})
    if chosen.half_adapters:
        targets = _AUDITED_TARGETS if is_tiny else {}
        rows += _audited_rows(worlds, chosen.half_adapters, targets)
    return rows


def _draws(chosen: argparse.Namespace, suite: str, cache: Path) -> list[Draw]:
    usual = SUITES[suite]
    given = {"people": chosen.halves, "seeds": chosen.lora_seeds}
    retrainings = replace(usual.retrainings, **{k: n for k, n in given.items() if n is not None})
    return [Draw(suite, cache, seed, retrainings) for seed in chosen.seeds or usual.seeds]


def _rows(
    worlds: Sequence[World], compared: Container[str], targets: Mapping[str, float]
) -> list[Row]:
    rows = ceiling_rows(worlds)
    paid = [ours.released(one.setting) for one in worlds]
    released = [of_release(one) for one in paid]
    rows += method_rows(RELEASED, worlds, released, targets)
    rows += nobody_rows(RELEASED, worlds, paid, targets)
    others = {name: peer for name, peer in peers.available().items() if name in compared}
    for name, method in {**_exact(), **others}.items():
        started = time.process_time()
        scored = [_scored(one, method) for one in worlds]
        seconds = time.process_time() - started
        rows += method_rows(name, worlds, scored, {})
        rows.append(Row(f"{name}: CPU time of a data seed", seconds / len(worlds), "s"))
    for name, reason in peers.left_out().items():
        print(f"{name} is left out: {reason}", file=sys.stderr)
    return rows


def _audited_rows(worlds: Sequence[World], count: int, targets: Mapping[str, float]) -> list[Row]:
    started = time.process_time()
    found = [ours.audited(one.setting, one.retraining, count) for one in worlds]
    seconds = time.process_time() - started
    pairs = [(one, paid) for one, paid in zip(worlds, found, strict=True) if paid is not None]
    if len(pairs) < len(worlds):
        print("influence foretold nothing in some data: it is not audited", file=sys.stderr)
    scored = [of_release(paid) for _, paid in pairs]
    rows = method_rows(AUDITED, [one for one, _ in pairs], scored, targets) if pairs else []
    return [*rows, Row(f"{AUDITED}: CPU time of a data seed", seconds / len(worlds), "s")]


def _exact() -> dict[str, Peer]:
    """What is paid by without its shortcuts, and what it was chosen from."""

    def at(*checkpoints: Callable[[Setting], Adapter]) -> Peer:
        return lambda setting: ours.ekfac(setting, [one(setting) for one in checkpoints])

    def end(setting: Setting) -> Adapter:
        return setting.adapter

    def quarter(setting: Setting) -> Adapter:
        return setting.checkpoints[0].adapter

    def half_strength(setting: Setting) -> Adapter:
        adapter = setting.adapter
        pairs = {site: LoraPair(pair.a, pair.b / 2) for site, pair in adapter.pairs.items()}
        return Adapter(adapter.shape, adapter.base, pairs)

    return {
        "EK-FAC, end": at(end),
        "EK-FAC, a quarter": at(quarter),
        "EK-FAC, a quarter and end": at(quarter, end),
        "EK-FAC, half strength and end": at(half_strength, end),
    }


def _scored(one: World, method: Peer) -> Scored:
    return of_documents(one, method(one.setting))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
