"""How well scores foretell what retraining shows: arrays in, one figure for each query out.

Letters of the shapes: N documents, C contributors, Q queries, S subsets that were trained on. NaN
stands where nothing can be said, for example where all retrained models agree.
"""

import msgspec
import numpy as np

# Of the largest value that went into a sum. Rounding must not be ranked: what differs by no more
# than that is tied. Sums of a thousand doubles are exact to about 1e-13 of it.
_ROUNDING = 1e-11
_RESAMPLES = 2_000
_TAILS = (2.5, 97.5)  # percentiles that bound a 95 % interval


class Estimate(msgspec.Struct, frozen=True):
    """A mean over queries, and how far other queries might have moved it."""

    mean: float
    low: float  # of the 95 % interval
    high: float
    count: int  # queries that had a value


def estimate(values: np.ndarray, seed: int = 0) -> Estimate:
    """Sum up (Q,) figures; those that are NaN are left out and not counted."""
    known = values[~np.isnan(values)]
    mean = float(known.mean()) if len(known) else float("nan")
    return Estimate(mean, *interval(values, seed), len(known))


def interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean of (Q,) figures over queries, NaN left out."""
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan")
    stream = np.random.Generator(np.random.Philox(key=seed))
    means = known[stream.integers(len(known), size=(_RESAMPLES, len(known)))].mean(1)
    low, high = np.percentile(means, _TAILS)
    return float(low), float(high)


def by_contributor(scores: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Sum (N, Q) scores of documents into (C, Q), by the (N,) places of their contributors."""
    sums = np.zeros((int(owner.max(initial=-1)) + 1, scores.shape[1]))
    np.add.at(sums, owner, scores)
    return sums


def lds(kept: np.ndarray, scores: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Linear datamodelling score: do summed scores order the subsets as retraining does?

    Args:
        kept: (S, N) 1 where a subset's model was trained on the document, else 0; for subsets of
            contributors (S, C).
        scores: (N, Q), or (C, Q).
        losses: (S, Q) of each subset's model.

    Returns:
        (Q,) rank correlations over subsets; NaN where either side says the same of all subsets.

    Source: arXiv 2303.14186, section 2.
    """
    predicted = _ranks(_total(kept, scores), _largest_total(kept, scores))
    return _correlations(predicted, _ranks(-losses, np.abs(losses).max(0)))


def query_specific(kept: np.ndarray, scores: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """The same without what a subset does to all queries alike; arguments as of `lds`.

    From both sides, for each subset, its mean over the queries is subtracted. Scores that do not
    depend on the query foretell nothing of what is left, and get 0.

    Returns:
        (Q,) rank correlations over subsets; NaN where retraining leaves nothing to foretell.
    """
    # A mean mixes the queries, so that the rounding of the largest reaches all of them.
    predicted = _ranks(_own(_total(kept, scores)), _largest_total(kept, scores).max())
    actual = _ranks(_own(-losses), np.abs(losses).max())
    is_silent = ~_varies(predicted) & _varies(actual)
    return np.where(is_silent, 0.0, _correlations(predicted, actual))


def rank_correlations(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Spearman's, down the columns of two arrays of one shape; (Q,), NaN where one is constant.

    Between (C, Q) scores and (C, Q) losses caused by leaving each contributor out, this tells
    whether a method orders the contributors rightly.
    """
    return _correlations(
        _ranks(left, np.abs(left).max(0, initial=0.0)),
        _ranks(right, np.abs(right).max(0, initial=0.0)),
    )


def top_hits(scores: np.ndarray, effects: np.ndarray) -> np.ndarray:
    """Whether the contributor with the highest score is the one whose absence costs most.

    Args:
        scores: (C, Q); where several share the highest, one of them is drawn: that is a part of a
            hit.
        effects: (C, Q) rise of the loss when each contributor is left out.

    Returns:
        (Q,) from 0 to 1; NaN where leaving anybody out costs the same.
    """
    is_top = scores == scores.max(0)  # (C, Q)
    hit = np.take_along_axis(is_top, effects.argmax(0)[None], 0)[0] / is_top.sum(0)
    return np.where(np.ptp(effects, axis=0) > 0, hit, np.nan)


def positive_shares(values: np.ndarray) -> np.ndarray:
    """Clip (C, Q) values at 0 and divide each query's by their sum; all 0 where none is above."""
    positive: np.ndarray = np.clip(values, 0, None)
    sums = positive.sum(0)
    shares: np.ndarray = positive / np.where(sums > 0, sums, 1)
    return shares


def payout_error(shares: np.ndarray, effects: np.ndarray) -> np.ndarray:
    """Total variation between shares and those that leaving contributors out would justify.

    What a share withholds from everybody counts as given to the wrong one: paying nobody is an
    error of 1, as paying only the wrong ones is.

    Args:
        shares: (C, Q), none below 0, of each query at most 1 in all.
        effects: (C, Q) rise of the loss when each contributor is left out; its positive parts,
            divided by their sum, are what is right.

    Returns:
        (Q,) from 0 to 1; NaN where nobody's absence raises the loss.
    """
    right = positive_shares(effects)
    missing = np.clip(right - shares, 0, None).sum(0)
    return np.where(right.any(0), missing, np.nan)


def area_under_curve(inside: np.ndarray, outside: np.ndarray) -> float:
    """The chance that a value from inside is above one from outside, ties counting half.

    Args:
        inside: (I,) values that should be high.
        outside: (O,) values that should be low.

    Returns:
        From 0 to 1, 0.5 for no difference; NaN where one of the two is empty.
    """
    if not len(inside) or not len(outside):
        return float("nan")
    pairs = inside[:, None] - outside  # (I, O)
    return float((pairs > 0).mean() + (pairs == 0).mean() / 2)


def _total(kept: np.ndarray, scores: np.ndarray) -> np.ndarray:
    total: np.ndarray = kept.astype(np.float64) @ scores.astype(np.float64)  # (S, Q)
    return total


def _largest_total(kept: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(Q,) what sums would be if nothing cancelled out: rounding is in proportion to that."""
    largest: np.ndarray = _total(kept, np.abs(scores)).max(0, initial=0.0)
    return largest


def _own(values: np.ndarray) -> np.ndarray:
    """What (S, Q) values say of each query beyond what they say of all."""
    own: np.ndarray = values - values.mean(1, keepdims=True)
    return own


def _ranks(values: np.ndarray, largest: np.ndarray | float) -> np.ndarray:
    """(S, Q) ranks down each column, average where tied; `largest` tells how exact values are."""
    order = values.argsort(0)
    steps = np.diff(np.take_along_axis(values, order, 0), axis=0) > _ROUNDING * largest
    ranks = np.zeros(values.shape)
    for query in range(values.shape[1]):
        level = np.concatenate([[0], steps[:, query].cumsum()])  # (S,) equal where tied
        sizes = np.bincount(level)
        ranks[order[:, query], query] = (sizes.cumsum() - (sizes - 1) / 2)[level]
    return ranks


def _varies(ranks: np.ndarray) -> np.ndarray:
    varies: np.ndarray = np.ptp(ranks, axis=0) > 0
    return varies


def _correlations(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(Q,) Pearson's, down the columns; NaN where one of them is constant."""
    a, b = left - left.mean(0), right - right.mean(0)
    lengths = np.sqrt((a * a).sum(0) * (b * b).sum(0))
    products = (a * b).sum(0)
    return np.where(lengths > 0, products / np.where(lengths > 0, lengths, 1), np.nan)
