"""Builds the attribution state of a release, once, from its adapter and its training examples.

Everything random follows from the seed of the run. On one machine the same input gives the same
bytes.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from openledger.attribution.credit.clusters import cluster
from openledger.attribution.credit.documents import CreditDocument, ElsewhereText
from openledger.attribution.credit.parts import parts_of
from openledger.attribution.credit.signatures import signatures
from openledger.attribution.influence.curvature import Whitener
from openledger.attribution.influence.gradients import (
    Checkpoints,
)
from openledger.attribution.influence.passes import Passes, Progress, key_of
from openledger.attribution.influence.rows import (
    Layout,
    Scales,
    quantise_rows,
    scales_for,
    squared_lengths,
)
from openledger.attribution.method import (
    BALANCED_ON,
    CHECKPOINTS,
    LEAST_WIDTH,
    METHOD_VERSION,
    MOST_WIDTH,
    PLACEBO_ROWS,
    ROWS_BYTES,
)
from openledger.attribution.state import (
    AttributionState,
    ClusterEntry,
    Commitment,
    CommittedParent,
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
from openledger.lm.frozen import hidden_cache
from openledger.settlement.shares import CreditPart

_UNSET = Digest("0" * 64)  # of a file that is not written yet


class TrainingExample(msgspec.Struct, frozen=True):
    """One row that the adapter was trained on."""

    digest: Digest
    document: int  # examples of one document are credited together
    account: Account
    text: str
    # Exactly as trained on, the end token included; of a long example several, each of which begins
    # with the last token of the one before.
    rows: tuple[tuple[int, ...], ...]
    parents: tuple[int, ...] = ()  # of a merge: the places of those that were trained on it

    @property
    def ids(self) -> tuple[int, ...]:
        """Its tokens, each once."""
        first, *others = self.rows
        return first + tuple(token for row in others for token in row[1:])


class Recipe(msgspec.Struct, frozen=True):
    """What is built, and from where its randomness comes."""

    adapter: Digest
    early: Digest  # the adapter after a quarter of its training
    seed: Digest
    parents: tuple[CommittedParent, ...] = ()  # of a merge


def build(
    folder: Path,
    models: Checkpoints,
    examples: Sequence[TrainingExample],
    recipe: Recipe,
    progress: Progress | None = None,
    elsewhere: Sequence[ElsewhereText] = (),
) -> AttributionState:
    """Build a state and write it to `folder`, whole or not at all.

    Args:
        folder: what stood there before is replaced. Beside it the output of the frozen layers is
            cached; the cache of the training on the same rows is used.
        models: the adapter on its base; bfloat16 is many times faster where the CPU has it.
        examples: in the order of the training manifest.
        recipe: identity and seed.
        progress: is told (rows done, rows in all); each row is done once a checkpoint, those of the
            curvature once more.
        elsewhere: what the network holds besides; the first to commit a passage keeps its credit.

    Raises:
        InvalidInputError: no examples, one of fewer than two tokens, one document under two
            accounts, or a gradient that is no finite number.
    """
    documents = _documents(examples)
    trained = [row for example in examples for row in example.rows]
    model = models.final
    hidden = hidden_cache(folder.parent, model.base, model.split.first, trained)
    numbers = cluster([document.text for document in documents])
    owners = _owners(examples, documents)
    work = Passes(models, recipe.seed, trained, hidden, progress)
    whitener = work.fit_curvature(_width(numbers) // CHECKPOINTS)
    parts = layout_of(whitener)
    vectors = _balanced(work.sums(whitener, owners), len(documents))
    vectors[: len(documents)] *= _novelty(numbers)[:, None]
    scales, whole = _quantise(vectors, parts, numbers)
    counts = np.bincount(
        np.concatenate([example.ids for example in examples]), minlength=model.vocabulary
    ).astype(np.int64)
    rows = _rows(whole, numbers, counts, signatures(documents, numbers))
    commitment = Commitment(
        method=METHOD_VERSION,
        base=model.base.digest,
        adapter=recipe.adapter,
        early=recipe.early,
        seed=recipe.seed,
        sites=model.sites,
        layout=parts,
        scales=scales,
        factors=_UNSET,
        null_model=digest_of_row(counts),
        signatures=digest_of_row(rows.signatures),
        parents=recipe.parents or msgspec.UNSET,
    )
    stream = np.random.Generator(np.random.Philox(key=key_of(recipe.seed, "sense")))
    owned = parts_of(model, documents, elsewhere, stream)
    entries = _entries(documents, owned, numbers, rows, squared_lengths(whole, parts, scales))
    listed = tuple(ExampleEntry(example.digest, example.document) for example in examples)
    write_state(folder, whitener, StateManifest(commitment, listed, *entries, _UNSET), rows)
    return load_state(folder)


def layout_of(whitener: Whitener) -> Layout:
    """How a row is made up: the features of each site, once for each checkpoint."""
    return Layout(whitener.widths * CHECKPOINTS)


def _documents(examples: Sequence[TrainingExample]) -> list[CreditDocument]:
    if not examples:
        raise InvalidInputError("a release needs training examples to attribute to")
    texts: dict[int, list[str]] = {}
    rows: dict[int, list[tuple[int, ...]]] = {}
    accounts: dict[int, Account] = {}
    parents = {one.document: one.parents for one in examples}  # whole documents are trained on
    for example in examples:
        if not example.rows or min(map(len, example.rows)) < 2:
            raise InvalidInputError(f"example {example.digest} has fewer than two tokens")
        if accounts.setdefault(example.document, example.account) != example.account:
            raise InvalidInputError(f"document {example.document} stands under two accounts")
        texts.setdefault(example.document, []).append(example.text)
        rows.setdefault(example.document, []).extend(example.rows)
    return [
        CreditDocument(n, accounts[n], "\n".join(parts), tuple(rows[n]), parents[n])
        for n, parts in texts.items()
    ]


def _owners(examples: Sequence[TrainingExample], documents: Sequence[CreditDocument]) -> list[int]:
    """The place of the document of each training row."""
    place = {document.number: i for i, document in enumerate(documents)}
    return [place[one.document] for one in examples for _ in one.rows]


def _width(numbers: Sequence[int]) -> int:
    """How many numbers a row may have, by how many rows are to be stored."""
    sizes = Counter(numbers)
    rows = len(sizes) + PLACEBO_ROWS + sum(size for size in sizes.values() if size > 1)
    return max(LEAST_WIDTH, min(MOST_WIDTH, ROWS_BYTES // rows))


def _balanced(vectors: Sequence[Tensor], documents: int) -> Tensor:
    """(documents + placebo, P): the checkpoints side by side, made to count alike.

    They count alike when the scores of documents for each other are equally large, as the answers
    to be scored are not known yet.
    """
    some = range(0, documents, -(-documents // BALANCED_ON))
    alike = []
    for one in vectors:
        scores = (one[some] @ one[some].T).abs()
        others = scores.sum() - scores.trace()
        mean = others / (len(some) * (len(some) - 1)) if others > 0 else scores.mean()
        alike.append(one / mean if mean > 0 else one)
    return torch.cat(alike, dim=1)


def _novelty(numbers: Sequence[int]) -> Tensor:
    """(documents,) what each document counts of what it would alone.

    Alike documents teach less than their sum: n of them count as the root of n, by what retraining
    without pairs of copies showed (docs/protocol/attribution.md).
    """
    sizes = Counter(numbers)
    return torch.tensor([sizes[number] ** -0.5 for number in numbers])


def _quantise(vectors: Tensor, parts: Layout, numbers: Sequence[int]) -> tuple[Scales, np.ndarray]:
    """Integers fine enough, whose sums over any cluster stay within 16 bits."""
    scales = scales_for(vectors, parts)
    largest = max(np.bincount(numbers))
    while True:
        whole = quantise_rows(vectors, parts, scales)
        if largest * int(np.abs(whole).max(initial=0)) <= np.iinfo(np.int16).max:
            return scales, whole
        scales = Scales(tuple(exponent + 1 for exponent in scales.exponents))


def _rows(whole: np.ndarray, numbers: Sequence[int], counts: np.ndarray, runs: np.ndarray) -> Rows:
    sums = np.zeros((max(numbers) + 1, whole.shape[1]), np.int16)
    for number, row in zip(numbers, whole, strict=False):  # the placebo rows stand behind
        sums[number] += row
    sizes = Counter(numbers)
    shared = [i for i, number in enumerate(numbers) if sizes[number] > 1]
    if np.abs(sums).max(initial=0) <= np.iinfo(np.int8).max:
        sums = sums.astype(np.int8)
    return Rows(sums, whole[shared], whole[len(numbers) :], counts, runs)


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
        described.append(
            DocumentEntry(
                document=document.number,
                account=document.account,
                cluster=number,
                energy=energy,
                row=digest_of_row(next(shared)) if sizes[number] > 1 else None,
                parts=owned,
                parents=document.parents or msgspec.UNSET,
            )
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
