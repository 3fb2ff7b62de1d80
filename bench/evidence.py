"""Evidence and look-ups: how much the small index loses, and what each look-up costs.

The index keeps one sign a number where the payment has eight bits. What that loses is measured on
worlds of the tiny suite of `bench.attribution`: a tuned model, its documents and queries, and what
retraining without half of the documents does to each answer. Beside the index stand what it could
have been: rows of the payment's kind, as wide as the same bytes allow. Look-ups are timed on rows
of random numbers, since only their sizes matter. `--smoke` runs all of it on sizes that mean
nothing, for correctness only.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

if not __package__:  # started by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.attribution import measures
from bench.attribution.corpus import made_up_pages, read_pages
from bench.attribution.results import INSIDE
from bench.attribution.setting import Setting
from bench.attribution.tiny import SMOKE, Scale, World, world
from bench.table import Row, at_most, exactly, options, run
from openledger.attribution.attribute import Attributor
from openledger.attribution.evidence.index import ROW_BYTES, WIDTH, Codes, DocumentIndex, Rows
from openledger.attribution.evidence.spans import Passages
from openledger.attribution.influence.gradients import ProbedModel
from openledger.attribution.influence.sketch import (
    Sketch,
    dots,
    layout,
    quantise_rows,
    scales_for,
)
from openledger.attribution.method import WIDTH as PAYMENT_WIDTH
from openledger.attribution.release import Recipe, TrainingExample, build
from openledger.core.types import Account, Digest
from openledger.settings import load

_SEED = Digest(sha256(b"bench evidence").hexdigest())
_SEEDS = (3, 4, 5)  # on which nothing is chosen
_SCALE = Scale(halves=48, seeds=1)
_TOGETHER = 5  # answers of one batch
_REPEATS = 5


class Sizes(msgspec.Struct, frozen=True):
    """How large the look-ups are that are timed."""

    contributors: int = 10_000
    wide: int = 65_536
    narrow: int = 4_096
    rows: int = 100_000  # of the index
    words: int = 1_000_000  # of the training texts


_SMOKE_SIZES = Sizes(20, 512, 64, 50, 2_000)


class Seen(msgspec.Struct, frozen=True):
    """What one release kept of its documents, and what was asked."""

    documents: list[Tensor]  # whitened gradients, in parts (N, size)
    queries: list[list[Tensor]]  # of each answer, in parts (1, size)
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
            worlds = [world(made_up_pages(), Path(folder), 0, SMOKE)]
        return [*quality(worlds, has_targets=False), *costs(_SMOKE_SIZES, has_targets=False)]
    pages = read_pages(chosen.cache / "packages")
    worlds = [world(pages, chosen.cache / "models", seed, _SCALE) for seed in chosen.seeds]
    return [*quality(worlds, has_targets=True), *costs(Sizes(), has_targets=True)]


def quality(worlds: Sequence[World], *, has_targets: bool) -> list[Row]:
    """How much of the exact scores' order is left."""
    seen = [_seen(one.setting) for one in worlds]
    exact = [_exact(one) for one in seen]
    kinds: dict[str, Callable[[Seen], np.ndarray]] = {
        "the index": _indexed,
        "rows of eight bits as wide as 4 KiB": partial(_eight_bits, ROW_BYTES),
        f"the payment's rows, of {PAYMENT_WIDTH} B": partial(_eight_bits, PAYMENT_WIDTH),
    }
    pairs = [*zip(worlds, exact, strict=True)]
    truth = np.concatenate([_lds(one, scores) for one, scores in pairs])
    size = max(one.codes.rows.shape[1] for one in seen)
    rows = [
        at_most("the index: bytes a row", size, "B", ROW_BYTES),
        Row("exact scores: LDS document", float(np.nanmean(truth)), ""),
    ]
    for name, score in kinds.items():
        found = [score(one) for one in seen]
        lds = np.concatenate([_lds(*pair) for pair in zip(worlds, found, strict=True)])
        lost = truth - lds
        low, high = measures.interval(lost)
        likeness = float(np.mean([_correlation(*p) for p in zip(found, exact, strict=True)]))
        is_judged = has_targets and name == "the index"
        rows += [
            Row(f"{name}: LDS document", float(np.nanmean(lds)), ""),
            _limited(f"{name}: LDS lost", float(np.nanmean(lost)), "", 0.02, is_judged),
            Row(f"{name}: LDS lost, from", low, ""),
            Row(f"{name}: LDS lost, to", high, ""),
            Row(f"{name}: correlation with the exact scores", likeness, ""),
        ]
    return rows


def costs(sizes: Sizes, *, has_targets: bool) -> list[Row]:
    """What looking up costs, in CPU time of one thread."""
    rows = _payment(sizes, sizes.wide, 40 if has_targets else None)
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
    collected = Rows(_SEED)
    parts = [torch.from_numpy(stream.standard_normal((few, WIDTH), dtype=np.float32))]
    began = time.process_time()
    collected.hear(range(few), parts)
    encoding = time.process_time() - began
    some = collected.codes([0] * few)
    whole = np.tile(some.rows, (-(-sizes.rows // few), 1))[: sizes.rows]
    index = DocumentIndex(_SEED, Codes(some.sizes, whole, tuple(range(sizes.rows))))
    query = [part[:1] for part in parts]
    return [
        Row("the index: keeping a row", 1e3 * encoding / few, "CPU-ms"),
        Row(
            f"the index: one look-up among {sizes.rows}",
            _cpu_ms(lambda: index.search(query, 200)),
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
    model, rows = ProbedModel(setting.base, setting.adapter), Rows(_SEED)
    heard: dict[int, list[Tensor]] = {}

    def hear(numbers: Sequence[int], features: Sequence[Tensor]) -> None:
        rows.hear(numbers, features)
        heard.update({n: [part[i] for part in features] for i, n in enumerate(numbers)})

    with tempfile.TemporaryDirectory(prefix="openledger-bench-") as folder:
        recipe = Recipe(Digest("0" * 64), _SEED)
        state = build(Path(folder) / "state", model, examples, recipe, hear=hear)
    attributor = Attributor(state, model)
    numbers = range(len(examples))
    parts = zip(*(heard[number] for number in numbers), strict=True)
    return Seen(
        documents=[torch.stack(part) for part in parts],
        queries=[attributor.features(one.prompt, one.answer) for one in setting.queries],
        codes=rows.codes(numbers),
    )


def _exact(seen: Seen) -> np.ndarray:
    asked = torch.cat([torch.cat(query, 1) for query in seen.queries])
    scores: np.ndarray = (torch.cat(seen.documents, 1) @ asked.T).numpy()
    return scores


def _indexed(seen: Seen) -> np.ndarray:
    index = DocumentIndex(_SEED, seen.codes)
    scores = np.zeros((len(seen.codes.documents), len(seen.queries)))
    for place, query in enumerate(seen.queries):
        for found in index.search(query, len(scores)):
            scores[found.document, place] = found.score
    return scores


def _eight_bits(width: int, seen: Seen) -> np.ndarray:
    sizes = [part.shape[1] for part in seen.documents]
    sketch = Sketch(_SEED, layout(sizes, width))
    rows = sketch.project(seen.documents)
    scales = scales_for(rows, sketch.layout)
    whole = quantise_rows(rows, sketch.layout, scales).astype(np.float64)
    exponents = np.repeat(scales.exponents, sketch.layout.widths)
    asked = torch.cat([sketch.project(query) for query in seen.queries]).numpy()
    scores: np.ndarray = (whole * 2.0**exponents) @ asked.T
    return scores


def _lds(world: World, scores: np.ndarray) -> np.ndarray:
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
