"""Whether a state agrees with itself: clusters are sums of documents, energies lengths of rows.

The training root says that nobody altered them since; that they were right to begin with, whoever
holds the whole state sees from here. That the rows are what the texts give, only building them
again shows.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from openledger.attribution.influence.rows import MOST_EXPONENT, squared_lengths
from openledger.attribution.state import AttributionState
from openledger.core.errors import VerificationError


def check_sums(state: AttributionState) -> None:
    """Check every sum in a state.

    Raises:
        VerificationError: one is wrong, or rows and entries are not of one another.
    """
    manifest, rows = state.manifest, state.rows
    commitment = manifest.commitment
    numbers = [entry.cluster for entry in manifest.documents]
    _check_shapes(state, numbers)
    documents = _rows_of_documents(state, numbers)
    sums = np.zeros(rows.clusters.shape, np.int32)
    for number, row in zip(numbers, documents, strict=True):
        sums[number] += row
    if not (sums == rows.clusters).all():
        raise VerificationError("a cluster of this release is not the sum of its documents")
    whole = np.concatenate([documents, rows.placebo])
    lengths = squared_lengths(whole, commitment.layout, commitment.scales)
    of_clusters = [0] * len(manifest.clusters)
    for number, length in zip(numbers, lengths, strict=False):  # the placebo rows stand behind
        of_clusters[number] += length
    energies = [
        *(entry.energy for entry in manifest.documents),
        *(entry.energy for entry in manifest.placebo),
        *(entry.energy for entry in manifest.clusters),
    ]
    if energies != lengths + of_clusters:
        raise VerificationError("an energy of this release is not the squared length of its row")


def _check_shapes(state: AttributionState, numbers: Sequence[int]) -> None:
    manifest, rows = state.manifest, state.rows
    sizes, layout = Counter(numbers), manifest.commitment.layout
    places = [*range(len(manifest.clusters))]
    trained = [*dict.fromkeys(entry.document for entry in manifest.examples)]
    if [entry.document for entry in manifest.documents] != trained:
        raise VerificationError("the documents of this release are not those it was trained on")
    stated = [entry.cluster for entry in manifest.clusters]
    is_shared = [entry.row is not None for entry in manifest.documents]
    if [*sorted(sizes)] != places or stated != places:
        raise VerificationError("the documents of this release are not those of its clusters")
    if not numbers or is_shared != [sizes[number] > 1 for number in numbers]:
        raise VerificationError("a document of this release has a row too many, or none")
    is_narrow = all(one.dtype == np.int8 for one in (rows.documents, rows.placebo))
    widths = {one.shape[1:] for one in (rows.clusters, rows.documents, rows.placebo)}
    is_laid_out = widths == {(layout.width,)} and min(layout.widths, default=-1) >= 0
    exponents = manifest.commitment.scales.exponents
    is_laid_out &= len(exponents) == len(layout.widths)
    is_laid_out &= all(abs(one) <= MOST_EXPONENT for one in exponents)
    if not is_narrow or rows.clusters.dtype not in (np.int8, np.int16) or not is_laid_out:
        raise VerificationError("the rows of this release are of another kind than its layout says")


def _rows_of_documents(state: AttributionState, numbers: Sequence[int]) -> np.ndarray:
    """(N, P) in order: one that is alone in its cluster has that one's row."""
    own = iter(state.rows.documents)
    entries = state.manifest.documents
    return np.stack(
        [
            state.rows.clusters[number] if entry.row is None else next(own)
            for entry, number in zip(entries, numbers, strict=True)
        ]
    )
