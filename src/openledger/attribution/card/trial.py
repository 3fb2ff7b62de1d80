"""How true a release's attribution is, measured against adapters without some of the data.

Letters of the shapes: K adapters, N documents, M clusters, C contributors, Q answers about the
data.
"""

import math

import msgspec
import numpy as np

from openledger.attribution.card import measures
from openledger.attribution.card.figures import Figures, Interval, Nobody
from openledger.attribution.card.measures import Estimate, estimate
from openledger.attribution.card.subsets import Halves, fractions

_MILLI = 1_000


class Sample(msgspec.Struct, frozen=True):
    """Some adapters and what they say."""

    kept: np.ndarray  # (D, M) which part of each cluster an adapter was trained on
    losses: np.ndarray  # (D, Q) mean nats a token


class Trial(msgspec.Struct, frozen=True):
    """What adapters without some of the data say of answers."""

    halves: Halves
    contributors: tuple[int, ...]  # of each document
    clusters: tuple[int, ...]  # of each document
    energies: tuple[int, ...]  # of each cluster
    losses: np.ndarray  # (K, Q) mean nats a token
    by_cluster: Sample | None  # adapters on halves of the clusters; None where all K are such
    effects: np.ndarray | None  # (C, Q) rise of the loss where one contributor is left out

    @property
    def kept(self) -> np.ndarray:
        """(K, M) which part of each cluster an adapter was trained on."""
        return fractions(self.halves.kept, self.clusters)

    def of_contributors(self, scores: np.ndarray) -> np.ndarray:
        """(M, Q) scores of clusters to (C, Q); a shared one is divided by its documents."""
        owned = fractions(
            np.equal.outer(range(max(self.contributors) + 1), self.contributors), self.clusters
        )
        found: np.ndarray = owned @ scores
        return found


class Said(msgspec.Struct, frozen=True):
    """What a way of scoring says of the same answers."""

    totals: np.ndarray  # (K, Q) what each adapter's data should be worth, in any unit
    scores: np.ndarray  # (M, Q)
    shares: np.ndarray  # (C, Q), each answer's sum to one, or to nothing


def by_influence(trial: Trial, scores: np.ndarray, shares: np.ndarray) -> Said:
    """Scores as every call is paid by."""
    return Said(trial.kept @ scores, scores, shares)


def figures(trial: Trial, said: Said) -> Figures:
    """Hold what is said against what the adapters show."""
    people = documents = None
    if trial.halves.by_contributor:
        people = _interval(measures.rank_correlations(said.totals, -trial.losses))
    else:
        documents = _interval(measures.rank_correlations(said.totals, -trial.losses))
    if trial.by_cluster is not None:
        some = trial.by_cluster
        documents = _interval(measures.lds(some.kept, said.scores, some.losses))
    if trial.effects is None:
        return Figures(people, documents, None, None)
    ranks = measures.rank_correlations(trial.of_contributors(said.scores), trial.effects)
    errors = measures.payout_error(measures.positive_shares(said.shares), trial.effects)
    return Figures(people, documents, _interval(ranks), _interval(errors))


def nobody(inside: np.ndarray, outside: np.ndarray) -> Nobody:
    """From the part of the data money that each answer pays to contributors."""
    return Nobody(
        auc_milli=_milli(measures.area_under_curve(inside, outside)),
        paid_inside_milli=_milli(float(inside.mean())),
        paid_outside_milli=_milli(float(outside.mean())),
        outside=len(outside),
    )


def _interval(values: np.ndarray) -> Interval | None:
    found: Estimate = estimate(values)
    if not found.count:
        return None
    return Interval(_milli(found.mean), _milli(found.low), _milli(found.high), found.count)


def _milli(value: float) -> int:
    assert math.isfinite(value), "figures of no answers are None"
    return round(value * _MILLI)
