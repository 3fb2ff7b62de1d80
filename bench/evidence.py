"""Evidence and look-ups: how much the small index loses, and what each look-up costs.

The index keeps one sign a number where the payment has eight bits. What that loses is measured on
worlds of the tiny suite of `bench.attribution`: a tuned model, its documents and queries, and what
retraining without half of the documents does to each answer. Look-ups are timed on rows of random
numbers, since only their sizes matter. `--smoke` runs all of it on sizes that mean
nothing, for correctness only.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
import torch

if not __package__:  # started by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.attribution.results import INSIDE
from bench.attribution.setting import Setting
from bench.attribution.suites import SMOKE, SUITES, TINY, Draw, worlds_of
from bench.attribution.world import World
from bench.table import Row, at_most, exactly, options, run
from openledger.attribution.attribute import Attributor
from openledger.attribution.card import measures
from openledger.attribution.evidence.index import (
    ROW_BYTES,
    SIGNS,
    Codes,
    DocumentIndex,
    Projection,
    codes_of,
)
from openledger.attribution.evidence.spans import Passages
from openledger.attribution.influence.gradients import Checkpoints, ProbedModel
from openledger.attribution.influence.rows import dots
from openledger.attribution.method import CHECKPOINTS, LEAST_WIDTH
from openledger.attribution.release import Recipe, TrainingExample, build
from openledger.core.types import Account, Digest
from openledger.settings import load

_SEED = Digest(sha256(b"bench evidence").hexdigest())
_SEEDS = (3, 4, 5)  # on which nothing is chosen
_TOGETHER = 5  # answers of one batch
_REPEATS = 5


class Sizes(msgspec.Struct, frozen=True):
    """How large the look-ups are that are timed."""

    contributors: int = 10_000
    wide: int = 65_536
    kept: int = LEAST_WIDTH  # what a release with as many documents has
    narrow: int = 4_096
    rows: int = 100_000  # of the index
    words: int = 1_000_000  # of the training texts


_SMOKE_SIZES = Sizes(20, 512, 256, 64, 50, 2_000)


class Seen(msgspec.Struct, frozen=True):
    """What one release kept of its documents, and what was asked."""

    rows: np.ndarray  # (N, P) the payment's
    queries: np.ndarray  # (Q, P)
    codes: Codes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 1 when a target was missed."""
    parser = options(__doc__)
    cache = Path(load({}).home.cache)
    parser.add_argument("--seeds", type=int, nargs="+", default=_SEEDS, help="data seeds")
    parser.add_argument("--cache", type=Path, default=cache, help="of packages and the small base")
    return run(measure, parser.parse_args(arguments))


def measure(chosen: argparse.Namespace) -> list[Row]:
    """All rows."""
    torch.set_num_threads(1)
    if chosen.smoke:
        with tempfile.TemporaryDirectory(prefix="openledger-bench-") as folder:
            worlds = worlds_of([Draw(SMOKE, Path(folder), 0, SUITES[SMOKE].retrainings)], 1)
        return [*quality(worlds, has_targets=False), *costs(_SMOKE_SIZES, has_targets=False)]
    retrainings = SUITES[TINY].retrainings  # those of bench.attribution, which are kept
    worlds = worlds_of([Draw(TINY, chosen.cache, seed, retrainings) for seed in chosen.seeds], 1)
    return [*quality(worlds, has_targets=True), *costs(Sizes(), has_targets=True)]


def quality(worlds: Sequence[World], *, has_targets: bool) -> list[Row]:
    """How much of the order of the payment's scores is left."""
    seen = [_seen(one.setting) for one in worlds]
    exact = [one.rows @ one.queries.T for one in seen]
    found = [_indexed(one) for one in seen]
    truth, lds = (
        np.concatenate([_lds(*pair) for pair in zip(worlds, scores, strict=True)])
        for scores in (exact, found)
    )
    low, high = measures.interval(truth - lds)
    likeness = float(np.mean([_correlation(*pair) for pair in zip(found, exact, strict=True)]))
    lost = float(np.nanmean(truth - lds))
    size = max(one.codes.rows.shape[1] for one in seen)
    return [
        at_most("the index: bytes a document", size, "B", ROW_BYTES),
        Row("the payment's rows: LDS document", float(np.nanmean(truth)), ""),
        Row("the index: LDS document", float(np.nanmean(lds)), ""),
        _limited("the index: LDS lost", lost, "", 0.02, has_targets),
        Row("the index: LDS lost, from", low, ""),
        Row("the index: LDS lost, to", high, ""),
        Row("the index: correlation with the payment's scores", likeness, ""),
    ]


def costs(sizes: Sizes, *, has_targets: bool) -> list[Row]:
    """What looking up costs, in CPU time of one thread."""
    rows = _payment(sizes, sizes.wide, 40 if has_targets else None)
    rows += _payment(sizes, sizes.kept, None)
    rows += _payment(sizes, sizes.narrow, 5 if has_targets else None)
    stream = np.random.Generator(np.random.Philox(key=1))
    return [*rows, *_index_cost(stream, sizes), *_passage_cost(stream, sizes)]


def _payment(sizes: Sizes, width: int, most: float | None) -> list[Row]:
    stream = np.random.Generator(np.random.Philox(key=0))
    count = sizes.contributors
    rows = stream.integers(-127, 128, (count, width), dtype=np.int8)
    queries = stream.integers(-32_767, 32_768, (_TOGETHER, width), dtype=np.int16)
    words = rows.view(np.int64)
    name = f"payment, {count} x {width}"
    alone = _cpu_ms(lambda: dots(queries[:1], rows))
    plain = rows[: min(count, 50)].astype(np.int64) @ queries[0].astype(np.int64)
    found = dots(queries[:1], rows[: len(plain)])[0]
    return [
        _limited(f"{name}: one look-up", alone, "CPU-ms", most or 0, most is not None),
        Row(
            f"{name}: one of {_TOGETHER} together",
            _cpu_ms(lambda: dots(queries, rows)) / _TOGETHER,
            "CPU-ms",
        ),
        Row(f"{name}: only reading the rows", _cpu_ms(words.max), "CPU-ms"),
        exactly(f"{name}: scores that differ", int((plain != found).sum()), "", 0),
    ]


def _index_cost(stream: np.random.Generator, sizes: Sizes) -> list[Row]:
    few = min(sizes.rows, 1_000)
    places = tuple(range(SIGNS // CHECKPOINTS))
    rows = stream.standard_normal((few, SIGNS), dtype=np.float32)
    some = stream.integers(0, 256, (few, ROW_BYTES), dtype=np.uint8)
    some[:, -8:] = np.ones(2, np.float32).view(np.uint8)  # the two lengths of a row
    whole = np.tile(some, (-(-sizes.rows // few), 1))[: sizes.rows]
    index = DocumentIndex(_SEED, Codes(SIGNS, places, whole, tuple(range(sizes.rows))))
    turn = Projection(_SEED, SIGNS, places)
    return [
        Row("the index: turning a row", _cpu_ms(lambda: turn.project(rows)) / few, "CPU-ms"),
        Row(
            f"the index: one look-up among {sizes.rows}",
            _cpu_ms(lambda: index.search(rows[0], 200)),
            "CPU-ms",
        ),
    ]


def _passage_cost(stream: np.random.Generator, sizes: Sizes) -> list[Row]:
    words = (sizes.words ** stream.random(sizes.words)).astype(np.int64).astype(str)
    each = max(1, sizes.words // 1_000)
    texts = {n: " ".join(words[n * each : (n + 1) * each]) for n in range(1_000)}
    began = time.process_time()
    passages = Passages(texts)
    built = time.process_time() - began
    answer = " ".join(words[:200])
    return [
        Row(f"passages: sorting {sizes.words} words", built, "CPU-s"),
        Row("passages: those of 200 words", _cpu_ms(lambda: passages.find(answer)), "CPU-ms"),
    ]


def _seen(setting: Setting) -> Seen:
    """Build a release, and listen to what the index is given."""
    examples = [
        TrainingExample(
            digest=Digest(sha256(one.text.encode()).hexdigest()),
            document=number,
            account=Account(f"0x{1:040x}"),
            text=one.text,
            rows=(one.tokens,),
        )
        for number, one in enumerate(setting.documents)
    ]
    models = Checkpoints(
        early=ProbedModel(setting.base, setting.checkpoints[0].adapter),
        final=ProbedModel(setting.base, setting.adapter),
    )
    adapter = Digest("0" * 64)  # in no file
    with tempfile.TemporaryDirectory(prefix="openledger-bench-") as folder:
        state = build(Path(folder) / "state", models, examples, Recipe(adapter, adapter, _SEED))
    attributor = Attributor(state, models)
    commitment = state.manifest.commitment
    units = np.exp2(np.repeat(commitment.scales.exponents, commitment.layout.widths))
    shared = iter(state.rows.documents)
    rows = [
        state.rows.clusters[one.cluster] if one.row is None else next(shared)
        for one in state.manifest.documents
    ]
    asked = [attributor.features(one.prompt, one.answer) for one in setting.queries]
    return Seen(
        rows=np.stack(rows) * units,
        queries=np.stack([one.numpy() for one in asked if one is not None]),
        codes=codes_of(state),
    )


def _indexed(seen: Seen) -> np.ndarray:
    index = DocumentIndex(_SEED, seen.codes)
    scores = np.zeros((len(seen.rows), len(seen.queries)))
    for place, query in enumerate(seen.queries):
        for found in index.search(query, len(scores)):
            scores[found.document, place] = found.score
    return scores


def _lds(world: World, scores: np.ndarray) -> np.ndarray:
    assert world.by_document is not None, "the tiny suite retrains on halves of the documents"
    losses = world.by_document.losses.mean(0)
    found = measures.lds(world.by_document.kept, scores, losses)
    inside = np.array([query.kind in INSIDE for query in world.setting.queries])
    values: np.ndarray = found[inside]
    return values


def _correlation(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.corrcoef(found.ravel(), exact.ravel())[0, 1])


def _limited(name: str, value: float, unit: str, most: float, is_judged: bool) -> Row:
    return at_most(name, value, unit, most) if is_judged else Row(name, value, unit)


def _cpu_ms(look_up: Callable[[], object]) -> float:
    """The quickest of several, after one that does not count."""
    look_up()
    taken = []
    for _ in range(_REPEATS):
        began = time.process_time()
        look_up()
        taken.append(time.process_time() - began)
    return 1e3 * min(taken)


if __name__ == "__main__":
    sys.exit(main())
