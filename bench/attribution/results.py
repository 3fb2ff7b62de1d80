"""From worlds and scores to the rows of the report."""

from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np

from bench.attribution.ours import Paid
from bench.attribution.truth import Subsets
from bench.attribution.world import World
from bench.table import Row, at_least, at_most
from openledger.attribution.card import measures
from openledger.attribution.card.measures import Estimate, estimate

INSIDE = ("held-out", "generated")


class Scored(msgspec.Struct, frozen=True):
    """What one method says of one world."""

    contributors: np.ndarray  # (C, Q)
    documents: np.ndarray  # (N, Q)
    shares: np.ndarray  # (C, Q), each query's sum to one, or to nothing


def of_documents(world: World, scores: np.ndarray) -> Scored:
    """A method that scores documents; negative totals are paid nothing."""
    contributors = measures.by_contributor(scores, world.setting.owner)
    return Scored(contributors, scores, measures.positive_shares(contributors))


def of_release(paid: Paid) -> Scored:
    """What a paid call would pay."""
    return Scored(paid.scores, paid.documents, measures.positive_shares(paid.shares))


def method_rows(
    name: str, worlds: Sequence[World], scored: Sequence[Scored], targets: Mapping[str, float]
) -> list[Row]:
    """All figures of one method over all worlds, each with its interval over queries."""
    pairs = [*zip(worlds, scored, strict=True)]
    rows: list[Row] = []
    for measure, figure in _MEASURES.items():
        values = np.concatenate([figure(world, found) for world, found in pairs])
        rows += _rows(f"{name}: {measure}", estimate(values), targets.get(measure))
    return rows


def ceiling_rows(worlds: Sequence[World]) -> list[Row]:
    """How well one training seed foretells another, on the same subsets."""
    rows: list[Row] = []
    if any(len(world.whole) < 2 for world in worlds):
        return []  # nothing to compare with
    people = [_seed_to_seed(world, world.by_contributor) for world in worlds]
    rows += _rows("seed to seed: LDS contributor", estimate(np.concatenate(people)), None)
    documents = [_seed_to_seed(world, world.by_document) for world in worlds if world.by_document]
    if documents:
        rows += _rows("seed to seed: LDS document", estimate(np.concatenate(documents)), None)
    for measure, figure in {
        "leave-one-out correlation": measures.rank_correlations,
        "payout error": _shares_error,
    }.items():
        values = np.concatenate([_other_seed(world, figure) for world in worlds])
        rows += _rows(f"seed to seed: {measure}", estimate(values), None)
    return rows


def nobody_rows(
    name: str, worlds: Sequence[World], paid: Sequence[Paid], targets: Mapping[str, float]
) -> list[Row]:
    """Does the share of nobody tell answers about the data from others?"""

    def of(kinds: Sequence[str], figure: Callable[[Paid], np.ndarray]) -> np.ndarray:
        pairs = zip(worlds, paid, strict=True)
        return np.concatenate([figure(one)[_is(world, *kinds)] for world, one in pairs])

    outsiders = ("outside",)
    inside, outside = (of(kinds, lambda one: 1 - one.nobody) for kinds in (INSIDE, outsiders))
    gains = [of(kinds, lambda one: one.gains) for kinds in (INSIDE, outsiders)]
    errors = np.concatenate(
        [
            _payout(world, of_documents(world, one.documents))
            for world, one in zip(worlds, paid, strict=True)
        ]
    )
    figures = {
        "area under the curve of nobody": measures.area_under_curve(inside, outside),
        "area under the curve of the gain, also below zero": measures.area_under_curve(*gains),
        "answers inside that gain": float((gains[0] > 0).mean()),
        "payout error, whatever an answer gained": float(np.nanmean(errors)),
        "contributors' part inside": float(inside.mean()),
        "contributors' part outside": float(outside.mean()),
    }
    return [
        _row(f"{name}: {figure}", value, targets.get(figure)) for figure, value in figures.items()
    ]


def _is(world: World, *kinds: str) -> np.ndarray:
    return np.array([query.kind in kinds for query in world.setting.queries])


def _at(figures: np.ndarray, world: World, kinds: Sequence[str] = INSIDE) -> np.ndarray:
    """Those of (Q,) figures whose queries are of these kinds."""
    found: np.ndarray = figures[_is(world, *kinds)]
    return found


def _effects(world: World) -> np.ndarray:
    """(C, Q) how much leaving each contributor out raises the loss."""
    effects: np.ndarray = world.left_out.losses.mean(0) - world.whole.mean(0)
    return effects


def _people(world: World) -> np.ndarray:
    """(S, C) which contributors each retraining kept."""
    owner = world.setting.owner
    first = [int(np.argmax(owner == person)) for person in range(int(owner.max()) + 1)]
    kept: np.ndarray = world.by_contributor.kept[:, first]
    return kept


def _contributor_lds(*kinds: str) -> Callable[[World, Scored], np.ndarray]:
    def figure(world: World, scored: Scored) -> np.ndarray:
        losses = world.by_contributor.losses.mean(0)
        found = measures.lds(_people(world), scored.contributors, losses)
        return _at(found, world, kinds)

    return figure


def _own_lds(world: World, scored: Scored) -> np.ndarray:
    inside = _is(world, *INSIDE)
    losses = world.by_contributor.losses.mean(0)[:, inside]
    return measures.query_specific(_people(world), scored.contributors[:, inside], losses)


def _document_lds(world: World, scored: Scored) -> np.ndarray:
    if world.by_document is None:
        return np.full(int(_is(world, *INSIDE).sum()), np.nan)
    losses = world.by_document.losses.mean(0)
    found = measures.lds(world.by_document.kept, scored.documents, losses)
    return _at(found, world)


def _left_out(world: World, scored: Scored) -> np.ndarray:
    return _at(measures.rank_correlations(scored.contributors, _effects(world)), world)


def _top(world: World, scored: Scored) -> np.ndarray:
    return _at(measures.top_hits(scored.contributors, _effects(world)), world)


def _payout(world: World, scored: Scored) -> np.ndarray:
    return _at(measures.payout_error(scored.shares, _effects(world)), world)


_MEASURES: Mapping[str, Callable[[World, Scored], np.ndarray]] = {
    "LDS contributor": _contributor_lds(*INSIDE),
    "LDS contributor, held-out": _contributor_lds("held-out"),
    "LDS contributor, generated": _contributor_lds("generated"),
    "LDS contributor, query-specific": _own_lds,
    "LDS document": _document_lds,
    "leave-one-out correlation": _left_out,
    "leave-one-out first": _top,
    "payout error": _payout,
}
_LESS_IS_BETTER = frozenset({"payout error", "contributors' part outside"})


def _seed_to_seed(world: World, subsets: Subsets) -> np.ndarray:
    losses = subsets.losses  # (seeds, S, Q)
    found = [measures.rank_correlations(losses[0], other) for other in losses[1:]]
    return np.concatenate([_at(one, world) for one in found])


def _other_seed(world: World, figure: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """What leaving each contributor out once says of leaving him out again, with another seed."""
    first, *others = world.left_out.losses - world.whole[:, None]  # (seeds, C, Q)
    return np.concatenate([_at(figure(first, other), world) for other in others])


def _shares_error(effects: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return measures.payout_error(measures.positive_shares(effects), truth)


def _rows(name: str, figure: Estimate, target: float | None) -> list[Row]:
    if not figure.count:
        return [Row(name, None, "")]
    first = _row(name, figure.mean, target)
    return [first, Row(f"{name}, from", figure.low, ""), Row(f"{name}, to", figure.high, "")]


def _row(name: str, value: float, target: float | None) -> Row:
    if target is None:
        return Row(name, value, "")
    is_cost = name.rpartition(": ")[2] in _LESS_IS_BETTER
    return (at_most if is_cost else at_least)(name, value, "", target)
