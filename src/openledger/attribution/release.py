"""Builds the attribution state of a release, once, from its adapter and its training examples.

One forward pass and two backward passes per example: one for labels drawn from the model, which
measure the curvature, one for the true labels, which are the example's own gradient. Everything
random follows from the seed of the run. On one machine the same input gives the same bytes.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from openledger.attribution.credit.clusters import cluster
from openledger.attribution.credit.documents import CreditDocument, ElsewhereText
from openledger.attribution.credit.parts import parts_of
from openledger.attribution.credit.signatures import signatures
from openledger.attribution.influence.curvature import Moments, SiteGradient, Whitener, fit, rounded
from openledger.attribution.influence.gradients import Batch, ProbedModel, label_gradients
from openledger.attribution.influence.sketch import (
    Scales,
    Sketch,
    layout,
    quantise_rows,
    scales_for,
)
from openledger.attribution.method import (
    COVARIANCE_TOKENS,
    CURVATURE_EXAMPLES,
    CURVATURE_TOKENS,
    LONGEST_SEQUENCE,
    METHOD_VERSION,
    PLACEBO_ROWS,
    PLACEBO_TOKENS,
    WIDTH,
)
from openledger.attribution.state import (
    AttributionState,
    ClusterEntry,
    Commitment,
    DocumentEntry,
    ExampleEntry,
    PlaceboEntry,
    Rows,
    StateManifest,
    digest_of_row,
    load_state,
    write_state,
)
from openledger.core.errors import InvalidInputError
from openledger.core.types import Account, Digest
from openledger.lm.frozen import HiddenCache, hidden_cache
from openledger.settlement.shares import CreditPart

_BATCH_TOKENS = 2_048  # padding included
_UNSET = Digest("0" * 64)  # of a file that is not written yet

Progress = Callable[[int, int], None]
Gradients = Mapping[str, SiteGradient]


class TrainingExample(msgspec.Struct, frozen=True):
    """One row that the adapter was trained on."""

    digest: Digest
    document: int  # examples of one document are credited together
    account: Account
    text: str
    # Exactly as trained on, the end token included; of a long example several, each of which begins
    # with the last token of the one before.
    rows: tuple[tuple[int, ...], ...]

    @property
    def ids(self) -> tuple[int, ...]:
        """Its tokens, each once."""
        first, *others = self.rows
        return first + tuple(token for row in others for token in row[1:])


class Recipe(msgspec.Struct, frozen=True):
    """What is built, and from where its randomness comes."""

    adapter: Digest
    seed: Digest
    width: int = WIDTH


def build(
    folder: Path,
    model: ProbedModel,
    examples: Sequence[TrainingExample],
    recipe: Recipe,
    progress: Progress | None = None,
    elsewhere: Sequence[ElsewhereText] = (),
) -> AttributionState:
    """Build a state and write it to `folder`, whole or not at all.

    Args:
        folder: what stood there before is replaced. Beside it the output of the frozen layers is
            cached; the cache of the training on the same rows is used.
        model: the adapter on its base; bfloat16 is many times faster where the CPU has it.
        examples: in the order of the training manifest.
        recipe: identity, seed and width.
        progress: is told (rows done, rows in all); rows of the curvature are done twice.
        elsewhere: what the network holds besides; the first to commit a passage keeps its credit.

    Raises:
        InvalidInputError: no examples, one of fewer than two tokens, one document under two
            accounts, or a gradient that is no finite number.
    """
    documents = _documents(examples)
    trained = [row for example in examples for row in example.rows]
    hidden = hidden_cache(folder.parent, model.base, model.split.first, trained)
    work = _Passes(model, recipe.seed, trained, hidden, progress)
    whitener = work.fit_curvature()
    sketch = Sketch(recipe.seed, layout(whitener.sizes(), recipe.width))
    projected = work.project(whitener, sketch)  # (rows + placebo, P)
    vectors = _sum_by_document(projected, examples, documents)
    numbers = cluster([document.text for document in documents])
    scales, whole = _quantise(vectors, sketch, numbers)
    counts = np.bincount(
        np.concatenate([example.ids for example in examples]), minlength=model.vocabulary
    ).astype(np.int64)
    rows = _rows(whole, numbers, counts, signatures(documents, numbers))
    commitment = Commitment(
        method=METHOD_VERSION,
        base=model.base.digest,
        adapter=recipe.adapter,
        seed=recipe.seed,
        sites=model.sites,
        layout=sketch.layout,
        scales=scales,
        factors=_UNSET,
        null_model=digest_of_row(counts),
        signatures=digest_of_row(rows.signatures),
    )
    stream = np.random.Generator(np.random.Philox(key=_key(recipe.seed, "sense")))
    parts = parts_of(model, documents, elsewhere, stream)
    entries = _entries(documents, parts, numbers, rows, _energies(whole, sketch, scales))
    listed = tuple(ExampleEntry(example.digest, example.document) for example in examples)
    write_state(folder, whitener, StateManifest(commitment, listed, *entries, _UNSET), rows)
    return load_state(folder)


class _Passes:
    """The passes over the training rows and the placebo rows behind them."""

    def __init__(
        self,
        model: ProbedModel,
        seed: Digest,
        rows: Sequence[Sequence[int]],
        hidden: HiddenCache,
        progress: Progress | None,
    ) -> None:
        self._model = model
        self._stream = np.random.Generator(np.random.Philox(key=_key(seed, "curvature")))
        self._seed = seed
        trained = [list(row[:LONGEST_SEQUENCE]) for row in rows]
        placebo = _placebo(trained, seed)
        self._rows = [*trained, *placebo]
        self._hidden = hidden
        self._placebo_hidden = model.batch(placebo, [1] * len(placebo)).hidden
        self._batches = _batches(self._rows)
        self._kept: dict[int, Gradients] = {}  # by batch: computed on the way
        self._progress = progress
        self._done, self._total = 0, len(self._rows)

    def fit_curvature(self) -> Whitener:
        """EK-FAC from an even selection of the batches."""
        tokens = sum(map(len, self._rows))
        stride = max(1, -(-tokens // CURVATURE_TOKENS), -(-len(self._rows) // CURVATURE_EXAMPLES))
        chosen = range(0, len(self._batches), stride)
        self._total += sum(len(self._batches[index]) for index in chosen)
        read = sum(len(self._rows[row]) for index in chosen for row in self._batches[index])
        spacing = max(1, -(-read // COVARIANCE_TOKENS))
        moments = Moments({}, {}, {}, {})
        sampled = []
        for index in chosen:
            self._kept[index], drawn = self._measure_both(self._batches[index], moments, spacing)
            sampled.append(drawn)
            self._tell(len(self._batches[index]))
        search = torch.Generator().manual_seed(_key(self._seed, "eigenvectors") % 2**63)
        return rounded(fit(self._model.sites, moments, sampled, search))

    def project(self, whitener: Whitener, sketch: Sketch) -> Tensor:
        """(rows, P) of every row's whitened and projected gradient."""
        projected = torch.zeros(len(self._rows), sketch.layout.width)
        for index, members in enumerate(self._batches):
            gradients = self._kept.pop(index, None) or self._measure(members)
            projected[torch.tensor(members)] = sketch.project(whitener.features(gradients))
            self._tell(len(members))
        return projected

    def _tell(self, rows: int) -> None:
        self._done += rows
        if self._progress is not None:
            self._progress(self._done, self._total)

    def _batch(self, members: Sequence[int]) -> Batch:
        rows = [self._rows[i] for i in members]
        trained = len(self._hidden)
        hidden = [
            (self._hidden[i] if i < trained else self._placebo_hidden[i - trained])[: len(row)]
            for i, row in zip(members, rows, strict=True)
        ]
        return self._model.batch(rows, [1] * len(rows), hidden)

    def _measure(self, members: Sequence[int]) -> Gradients:
        batch = self._batch(members)
        states = self._model.upper(batch, is_adapted=True, has_graph=True)
        labels = label_gradients(self._model, batch, states)
        return _finite(members, self._model.flow(states, labels.true).gradients)

    def _measure_both(
        self, members: Sequence[int], moments: Moments, spacing: int
    ) -> tuple[Gradients, Gradients]:
        batch = self._batch(members)
        states = self._model.upper(batch, is_adapted=True, has_graph=True)
        uniforms = self._stream.random(sum(batch.lengths) - len(members))
        labels = label_gradients(self._model, batch, states, uniforms)
        assert labels.sampled is not None
        true = _finite(members, self._model.flow(states, labels.true).gradients)
        drawn = self._model.flow(states, labels.sampled)
        self._model.add_moments(moments, batch, drawn, spacing)
        return true, drawn.gradients


def _documents(examples: Sequence[TrainingExample]) -> list[CreditDocument]:
    if not examples:
        raise InvalidInputError("a release needs training examples to attribute to")
    texts: dict[int, list[str]] = {}
    rows: dict[int, list[tuple[int, ...]]] = {}
    accounts: dict[int, Account] = {}
    for example in examples:
        if not example.rows or min(map(len, example.rows)) < 2:
            raise InvalidInputError(f"example {example.digest} has fewer than two tokens")
        if accounts.setdefault(example.document, example.account) != example.account:
            raise InvalidInputError(f"document {example.document} stands under two accounts")
        texts.setdefault(example.document, []).append(example.text)
        rows.setdefault(example.document, []).extend(example.rows)
    return [
        CreditDocument(n, accounts[n], "\n".join(parts), tuple(rows[n]))
        for n, parts in texts.items()
    ]


def _placebo(rows: Sequence[Sequence[int]], seed: Digest) -> list[list[int]]:
    """The tokens of some training rows in random order: the same words, nothing said."""
    stream = np.random.Generator(np.random.Philox(key=_key(seed, "placebo")))
    scrambled = []
    for turn in range(PLACEBO_ROWS):
        source = rows[turn * len(rows) // PLACEBO_ROWS]
        order = np.argsort(stream.random(len(source)), kind="stable")[:PLACEBO_TOKENS]
        scrambled.append([source[i] for i in order])
    return scrambled


def _batches(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Rows of like length together, so that little is padding; longest first."""
    batches: list[list[int]] = []
    for index in sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i)):
        if batches and len(rows[batches[-1][0]]) * (len(batches[-1]) + 1) <= _BATCH_TOKENS:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def _finite(members: Sequence[int], gradients: Gradients) -> Gradients:
    for gradient in gradients.values():
        for index, a, b in zip(members, gradient.a, gradient.b, strict=True):
            if not bool(torch.isfinite(a).all() and torch.isfinite(b).all()):
                raise InvalidInputError(
                    f"training row {index} gives a gradient that is no finite number: "
                    "the adapter is broken, train it again"
                )
    return gradients


def _sum_by_document(
    projected: Tensor, examples: Sequence[TrainingExample], documents: Sequence[CreditDocument]
) -> Tensor:
    """(documents + placebo, P); a document is the sum of its examples' rows."""
    place = {document.number: i for i, document in enumerate(documents)}
    owner = torch.tensor([place[one.document] for one in examples for _ in one.rows])
    sums = torch.zeros(len(documents), projected.shape[1])
    sums.index_add_(0, owner, projected[: len(owner)])
    return torch.cat([sums, projected[len(owner) :]])


def _quantise(vectors: Tensor, sketch: Sketch, numbers: Sequence[int]) -> tuple[Scales, np.ndarray]:
    """Integers fine enough, whose sums over any cluster stay within 16 bits."""
    scales = scales_for(vectors, sketch.layout)
    largest = max(np.bincount(numbers))
    while True:
        whole = quantise_rows(vectors, sketch.layout, scales)
        if largest * int(np.abs(whole).max(initial=0)) <= np.iinfo(np.int16).max:
            return scales, whole
        scales = Scales(tuple(exponent + 1 for exponent in scales.exponents))


def _rows(whole: np.ndarray, numbers: Sequence[int], counts: np.ndarray, runs: np.ndarray) -> Rows:
    sums = np.zeros((max(numbers) + 1, whole.shape[1]), np.int16)
    for number, row in zip(numbers, whole, strict=False):  # the placebo rows stand behind
        sums[number] += row
    sizes = Counter(numbers)
    shared = [i for i, number in enumerate(numbers) if sizes[number] > 1]
    return Rows(sums, whole[shared], whole[len(numbers) :], counts, runs)


def _energies(whole: np.ndarray, sketch: Sketch, scales: Scales) -> list[int]:
    """Squared lengths of the rows, exact, in units of the finest scale in use."""
    squares = whole.astype(np.int64) ** 2
    starts = np.cumsum([0, *sketch.layout.widths[:-1]])
    by_part = np.add.reduceat(squares, starts, axis=1)  # (rows, parts)
    used = [e for e, total in zip(scales.exponents, by_part.sum(0), strict=True) if total]
    finest = min(used, default=0)
    shifts = [2 * max(0, exponent - finest) for exponent in scales.exponents]
    return [sum(int(part) << s for part, s in zip(row, shifts, strict=True)) for row in by_part]


def _entries(
    documents: Sequence[CreditDocument],
    parts: Sequence[tuple[CreditPart, ...]],
    numbers: Sequence[int],
    rows: Rows,
    energies: Sequence[int],
) -> tuple[tuple[DocumentEntry, ...], tuple[ClusterEntry, ...], tuple[PlaceboEntry, ...]]:
    shared, sizes = iter(rows.documents), Counter(numbers)
    described = []
    totals = [0] * len(rows.clusters)
    for document, owned, number, energy in zip(documents, parts, numbers, energies, strict=False):
        row = digest_of_row(next(shared)) if sizes[number] > 1 else None
        described.append(
            DocumentEntry(document.number, document.account, number, energy, row, owned)
        )
        totals[number] += energy
    clusters = [
        ClusterEntry(number, total, digest_of_row(row))
        for number, (total, row) in enumerate(zip(totals, rows.clusters, strict=True))
    ]
    placebo = [
        PlaceboEntry(number, energy, digest_of_row(row))
        for number, (energy, row) in enumerate(
            zip(energies[len(documents) :], rows.placebo, strict=True)
        )
    ]
    return tuple(described), tuple(clusters), tuple(placebo)


def _key(seed: Digest, purpose: str) -> int:
    return int.from_bytes(sha256(f"openledger {purpose} 1 {seed}".encode()).digest()[:16], "big")
