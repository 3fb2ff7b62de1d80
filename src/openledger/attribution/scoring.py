"""From query vectors to scores, in integers alone: by the rows of one state, without a model."""

from collections.abc import Callable, Mapping, Sequence
from math import isqrt

import msgspec
import numpy as np

from openledger.attribution.influence.rows import dots
from openledger.attribution.method import FLOOR_DIVISOR
from openledger.attribution.state import AttributionState, DocumentEntry
from openledger.core.errors import InvalidInputError
from openledger.settlement.shares import ClusterScore, DocumentScore, is_paid

Correction = Callable[[Sequence[int]], Sequence[int]]  # of the scores of all clusters, in order


class Scoring:
    """One state, ready to score query vectors."""

    def __init__(self, state: AttributionState) -> None:
        self._state = state
        self._sharing = _documents_by_cluster(state)

    def score(self, query: np.ndarray) -> tuple[ClusterScore, ...]:
        """The scores of all clusters, exactly.

        Raises:
            InvalidInputError: the vector is not of this state's width.
        """
        return self.scores([query])[0]

    def scores(
        self, queries: Sequence[np.ndarray], corrections: Sequence[Correction] | None = None
    ) -> list[tuple[ClusterScore, ...]]:
        """The same for several queries, which cost less together, perhaps each corrected."""
        manifest, rows = self._state.manifest, self._state.rows
        for query in queries:
            if query.shape != (manifest.commitment.layout.width,):
                raise InvalidInputError(f"a query of {query.shape} does not fit this state's rows")
        if not queries:
            return []
        together = np.stack(queries)
        exact = dots(together, rows.clusters)
        if corrections is not None:
            exact = [[*correct(some)] for correct, some in zip(corrections, exact, strict=True)]
        energies = [entry.energy for entry in manifest.placebo]
        noises = [Noise(scores, energies) for scores in dots(together, rows.placebo)]
        scored = [
            [
                ClusterScore(entry.cluster, score, noise.floor(entry.energy), ())
                for entry, score in zip(manifest.clusters, scores, strict=True)
            ]
            for noise, scores in zip(noises, exact, strict=True)
        ]
        return [tuple(clusters) for clusters in self._documents(together, scored)]

    def _documents(
        self, queries: np.ndarray, scored: Sequence[Sequence[ClusterScore]]
    ) -> list[list[ClusterScore]]:
        """The same clusters, with the documents of those that are paid."""
        paid = {cluster.cluster for clusters in scored for cluster in clusters if is_paid(cluster)}
        shared = [
            member.row
            for number in sorted(paid)
            if len(self._sharing[number]) > 1
            for member in self._sharing[number]
        ]
        place = {row: i for i, row in enumerate(shared)}
        found = dots(queries, self._state.rows.documents[shared])
        return [
            [
                self._with_documents(cluster, scores, place) if is_paid(cluster) else cluster
                for cluster in clusters
            ]
            for clusters, scores in zip(scored, found, strict=True)
        ]

    def _with_documents(
        self, cluster: ClusterScore, scores: Sequence[int], place: Mapping[int, int]
    ) -> ClusterScore:
        members = self._sharing[cluster.cluster]
        is_alone = len(members) == 1
        own = [cluster.score] if is_alone else [scores[place[one.row]] for one in members]
        # What the cluster was corrected by is divided evenly among its documents.
        even, over = divmod(cluster.score - sum(own), len(own))
        documents = tuple(
            DocumentScore(
                member.entry.document,
                member.entry.account,
                score + even + (i < over),
                member.entry.parts,
                member.entry.parents,
            )
            for i, (member, score) in enumerate(zip(members, own, strict=True))
        )
        return msgspec.structs.replace(cluster, documents=documents)


class Noise:
    """The floor of a cluster: a part of what as much text without content would have scored.

    The placebo rows show the mean square of a score per unit of squared length; the errors of
    different documents are taken as independent, so squared lengths add up.
    """

    def __init__(self, scores: Sequence[int], energies: Sequence[int]) -> None:
        self._pairs = [pair for pair in zip(scores, energies, strict=True) if pair[1]]

    def floor(self, energy: int) -> int:
        """The floor of a cluster of this squared length."""
        if not self._pairs:
            return 0
        total = sum(score * score * energy // length for score, length in self._pairs)
        return isqrt(total // (len(self._pairs) * FLOOR_DIVISOR**2))


class _Member(msgspec.Struct, frozen=True):
    entry: DocumentEntry
    row: int  # in `Rows.documents`; meaningless where the document is alone


def _documents_by_cluster(state: AttributionState) -> dict[int, list[_Member]]:
    members: dict[int, list[_Member]] = {}
    row = 0
    for entry in state.manifest.documents:
        members.setdefault(entry.cluster, []).append(_Member(entry, row))
        row += entry.row is not None
    return members
