"""How far the shares of honest machines lie apart: precision, threads and attention kernel.

One release, many answers. Each is attributed in every way, and reported is the total variation of
its shares, contributors and nobody, from one thread with plain attention in the same precision;
beside it, how far what the adapter added to the answer lies apart; and, without a target, the total
variation of bfloat16 from float32. Level 2 of checking a receipt accepts half a point in the
precision that the receipt was made in (docs/protocol/attribution.md). Trained and asked is on a
dozen tunes, each cut at several places, on the tiny base; `--smollm2` takes the one in this
machine's cache, with a third of the answers.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch
from torch.nn.attention import SDPBackend

if not __package__:  # started by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.table import Row, at_most, options, run
from openledger.attribution.attribute import Attributor
from openledger.attribution.influence.gradients import Checkpoints, ProbedModel
from openledger.attribution.release import Recipe as AttributionRecipe
from openledger.attribution.release import TrainingExample, build
from openledger.attribution.state import AttributionState
from openledger.core.errors import NotFoundError
from openledger.core.types import PARTS_PER_BILLION as PARTS
from openledger.core.types import Account, Digest, Precision
from openledger.datanet.chunk import text_digest
from openledger.datanet.sources import tiny
from openledger.lm.base import DTYPES, BaseModel, load_base
from openledger.lm.tiny import build_tiny
from openledger.settings import load
from openledger.settlement.shares import (
    ADDED_TOLERANCE_MICRONATS,
    TOLERANCE_PPB,
    Attribution,
    distance_ppb,
)
from openledger.training.finetune import finetune
from openledger.training.recipe import Recipe
from openledger.training.rows import Example, encode_rows
from openledger.training.split import split_by_key
from openledger.training.task import FineTuned, Task

_SEED = Digest("5" * 64)
_HELD_OUT_BPS = 1_500
_CUTS = (0.2, 0.4, 0.6, 0.8)  # of a tune's tokens: what stands before is the prompt
_POINT_PPB = 10_000_000
_MOST = TOLERANCE_PPB / _POINT_PPB
# Trained to the end whatever the held-out loss says, and not held to the base: answers that owe
# nothing to anybody's data would lie 0 apart and tell nothing.
_TINY_RECIPE = Recipe(
    last_layers=2,
    epochs=32,
    learning_rate_micro=20_000,
    precision="float32",
    anchor_weight_hundredths=0,
    evaluations=1,
)
_SMOLLM2_RECIPE = Recipe(epochs=8, precision="float32", anchor_weight_hundredths=0, evaluations=1)


class Way(msgspec.Struct, frozen=True):
    """One way in which a machine may compute."""

    precision: Precision
    threads: int
    kernel: SDPBackend

    @property
    def name(self) -> str:
        """For the table."""
        kernel = {SDPBackend.MATH: "plain", SDPBackend.FLASH_ATTENTION: "flash"}[self.kernel]
        return f"{self.precision}, {self.threads} thread{'s' * (self.threads > 1)}, {kernel}"


_PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
_PLAIN = {one: Way(one, 1, SDPBackend.MATH) for one in _PRECISIONS}
_WAYS = tuple(
    Way(precision, threads, kernel)
    for precision in _PRECISIONS
    for threads in (1, 2)
    for kernel in (SDPBackend.MATH, SDPBackend.FLASH_ATTENTION)
)


class Answer(msgspec.Struct, frozen=True):
    """Token ids."""

    prompt: list[int]
    answer: list[int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 1 when a target was missed."""
    parser = options(__doc__)
    parser.add_argument("--smollm2", action="store_true", help="not on the tiny base")
    return run(measure, parser.parse_args(arguments))


def measure(chosen: argparse.Namespace) -> list[Row]:
    """All rows."""
    with tempfile.TemporaryDirectory(prefix="openledger-tolerance-") as scratch:
        folder = _base_folder(Path(scratch), is_tiny=not chosen.smollm2)
        bases = {name: load_base(folder, dtype=dtype) for name, dtype in DTYPES.items()}
        recipe = _SMOLLM2_RECIPE if chosen.smollm2 else _TINY_RECIPE
        if chosen.smoke:
            recipe = msgspec.structs.replace(recipe, epochs=8)
        state, tuned = _release(bases[recipe.precision], recipe, Path(scratch))
        step = 12 if chosen.smoke else 3 if chosen.smollm2 else 1
        asked = _answers(bases["float32"])[::step]
        # A kernel for each shape is built first in bfloat16: too long for a smoke run.
        ways = [way for way in _WAYS if way.precision == "float32" or not chosen.smoke]
        found = {way: _attributed(bases, state, tuned, way, asked) for way in ways}
    plain = found[_PLAIN["float32"]].attributions
    paid = [PARTS - one.nobody_ppb for one in plain]
    rows = [
        Row("answers", len(asked), ""),
        Row("answers that owe something", sum(map(bool, paid)), ""),
        Row("contributors' part, mean", sum(paid) / len(paid) / _POINT_PPB, "%"),
    ]
    for way in ways:
        if way != _PLAIN[way.precision]:
            gaps = _gaps(found[_PLAIN[way.precision]].attributions, found[way].attributions)
            rows.append(at_most(f"apart, most: {way.name}", gaps[-1], "points", _MOST))
            pairs = zip(found[_PLAIN[way.precision]].gains, found[way].gains, strict=True)
            added = max(abs(one - other) for one, other in pairs)
            most = ADDED_TOLERANCE_MICRONATS
            rows.append(at_most(f"gain apart, most: {way.name}", added, "micro-nats/token", most))
    if not chosen.smoke:
        rows += _rounded(_gaps(plain, found[_PLAIN["bfloat16"]].attributions))
    return [*rows, *(Row(f"CPU time: {way.name}", found[way].cpu_s, "s") for way in ways)]


def _rounded(gaps: Sequence[float]) -> list[Row]:
    return [
        Row("bfloat16 from float32, median", gaps[len(gaps) // 2], "points"),
        Row("bfloat16 from float32, mean", sum(gaps) / len(gaps), "points"),
        Row("bfloat16 from float32, most", gaps[-1], "points"),
        Row("bfloat16 from float32, answers beyond", sum(gap > _MOST for gap in gaps), ""),
    ]


class Attributed(msgspec.Struct, frozen=True):
    """All answers, in one way."""

    attributions: list[Attribution]
    gains: list[float]  # micro-nats a token
    cpu_s: float


def _gaps(one: Sequence[Attribution], other: Sequence[Attribution]) -> list[float]:
    """In points, rising."""
    return sorted(distance_ppb(*pair) / _POINT_PPB for pair in zip(one, other, strict=True))


def _attributed(
    bases: dict[str, BaseModel],
    state: AttributionState,
    tuned: FineTuned,
    way: Way,
    asked: Sequence[Answer],
) -> Attributed:
    torch.set_num_threads(way.threads)
    models = _checkpoints(bases[way.precision], tuned)
    for model in models.both:
        model.attention = way.kernel
    attributor = Attributor(state, models)
    began = time.process_time()
    made = [attributor.attribute(one.prompt, one.answer) for one in asked]
    taken = time.process_time() - began
    gains = [
        one.leave_one_out_micronats / len(answer.answer)
        for one, answer in zip(made, asked, strict=True)
    ]
    return Attributed([one.attribution for one in made], gains, taken)


def _release(base: BaseModel, recipe: Recipe, folder: Path) -> tuple[AttributionState, FineTuned]:
    """A release as a builder makes it, on one thread."""
    torch.set_num_threads(1)
    split = split_by_key(_examples(), bytes.fromhex(_SEED), _HELD_OUT_BPS)
    task = Task(recipe, bytes.fromhex(_SEED), split.training, split.held_out)
    tuned = finetune(base, task, folder / "run")
    rows: list[list[tuple[int, ...]]] = [[] for _ in split.training]
    for row in encode_rows(base.tokenizer, split.training, recipe.max_length):
        rows[row.example].append(row.tokens)
    examples = [
        TrainingExample(one.digest, one.document, one.account, one.text, tuple(pieces))
        for one, pieces in zip(split.training, rows, strict=True)
    ]
    made = AttributionRecipe(Digest("a" * 64), Digest("e" * 64), _SEED)
    models = _checkpoints(base, tuned)
    return build(folder / "run" / "state", models, examples, made), tuned


def _checkpoints(base: BaseModel, tuned: FineTuned) -> Checkpoints:
    return Checkpoints(ProbedModel(base, tuned.early), ProbedModel(base, tuned.adapter))


def _examples() -> list[Example]:
    people = tiny.contributors()
    listed = [(who, one) for who, person in enumerate(people) for one in person.documents]
    return [
        Example(text_digest(one.text), place, Account(f"0x{who:040x}"), one.text, one.key)
        for place, (who, one) in enumerate(listed)
    ]


def _answers(base: BaseModel) -> list[Answer]:
    """Continuations of the tunes, trained on or held out."""
    rows = [list(row) for row in base.tokenizer.encode_documents([e.text for e in _examples()])]
    cuts = [(row, max(1, round(len(row) * part))) for part in _CUTS for row in rows]
    return [Answer(row[:cut], row[cut:]) for row, cut in cuts]


def _base_folder(scratch: Path, *, is_tiny: bool) -> Path:
    if is_tiny:
        build_tiny(scratch / "tiny")
        return scratch / "tiny"
    models = Path(load({}).home.cache).expanduser() / "models"
    found = sorted(models.glob("smollm2-*"))
    if not found:
        raise NotFoundError(f"no SmolLM2 in {models}: `openledger demo` fetches it")
    return found[0]


if __name__ == "__main__":
    sys.exit(main())
