import math

import numpy as np
import pytest

from openledger.attribution.card.measures import (
    area_under_curve,
    by_contributor,
    estimate,
    interval,
    lds,
    payout_error,
    positive_shares,
    query_specific,
    rank_correlations,
    top_hits,
)

DOCUMENTS, QUERIES, SUBSETS = 12, 5, 20
NAN = float("nan")


@pytest.fixture
def stream() -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=7))


@pytest.fixture
def kept(stream: np.random.Generator) -> np.ndarray:
    """(S, N): half of the documents each."""
    return np.array(
        [stream.permutation(DOCUMENTS) < DOCUMENTS // 2 for _ in range(SUBSETS)], dtype=np.float64
    )


@pytest.fixture
def scores(stream: np.random.Generator) -> np.ndarray:
    return stream.standard_normal((DOCUMENTS, QUERIES))


def test_a_perfect_predictor_gets_one_and_its_negation_minus_one(
    kept: np.ndarray, scores: np.ndarray
) -> None:
    losses = 4.0 - kept @ scores  # additive: what is kept lowers the loss by its score

    for measure in (lds, query_specific):
        assert measure(kept, scores, losses) == pytest.approx(np.ones(QUERIES))
        assert measure(kept, -scores, losses) == pytest.approx(-np.ones(QUERIES))


def ranks(values: np.ndarray) -> list[float]:
    """One by one: those below count whole, those that are equal half."""
    return [float((values < v).sum() + (values == v).sum() / 2) for v in values]


def test_lds_correlates_ranks_column_by_column(
    kept: np.ndarray, scores: np.ndarray, stream: np.random.Generator
) -> None:
    losses = np.round(3 - kept @ scores + stream.standard_normal((SUBSETS, QUERIES)))
    found = lds(kept, scores, losses)

    for query in range(QUERIES):
        predicted, actual = ranks(kept @ scores[:, query]), ranks(-losses[:, query])
        assert found[query] == pytest.approx(np.corrcoef(predicted, actual)[0, 1])


def test_lds_depends_on_ranks_alone(kept: np.ndarray, scores: np.ndarray) -> None:
    losses = np.exp(-(kept @ scores))

    assert lds(kept, 1e6 * scores, losses) == pytest.approx(np.ones(QUERIES))


def test_ties_get_their_average_rank() -> None:
    left = np.array([[1.0], [1.0], [2.0], [3.0]])
    right = np.array([[1.0], [2.0], [3.0], [4.0]])

    assert rank_correlations(left, right)[0] == pytest.approx(4.5 / math.sqrt(4.5 * 5))


def test_rounding_is_not_ranked(kept: np.ndarray, stream: np.random.Generator) -> None:
    """A tenth is no double: sums of the same tenths differ by where they stand."""
    same = np.full((DOCUMENTS, 1), 0.1) + 1e-16 * stream.standard_normal((DOCUMENTS, 1))
    losses = stream.standard_normal((SUBSETS, 1))

    assert np.isnan(lds(kept, same, losses)).all()


def test_what_is_constant_has_no_correlation(kept: np.ndarray, scores: np.ndarray) -> None:
    losses = 4 - kept @ scores
    losses[:, 1] = 2.5
    silent = scores.copy()
    silent[:, 2] = 0

    found = lds(kept, silent, losses)

    assert np.isnan(found).tolist() == [False, True, True, False, False]
    assert np.isnan(lds(kept[:1], scores, losses[:1])).all()


def test_what_does_not_depend_on_the_query_is_not_specific(
    kept: np.ndarray, scores: np.ndarray, stream: np.random.Generator
) -> None:
    sizes = np.repeat(stream.integers(10, 90, (DOCUMENTS, 1)) / 7, QUERIES, axis=1)
    losses = 9 - kept @ (0.1 * sizes + 0.01 * scores)

    assert lds(kept, sizes, losses).mean() > 0.9
    assert query_specific(kept, sizes, losses).tolist() == [0.0] * QUERIES
    assert query_specific(kept, scores, losses) == pytest.approx(np.ones(QUERIES))
    assert query_specific(kept, scores + 5 * sizes, losses) == pytest.approx(np.ones(QUERIES))


def test_where_all_queries_move_alike_nothing_is_specific(
    kept: np.ndarray, scores: np.ndarray
) -> None:
    losses = np.repeat(4 - kept @ scores[:, :1], QUERIES, axis=1)

    assert np.isnan(query_specific(kept, scores, losses)).all()


def test_documents_are_summed_by_contributor() -> None:
    scores = np.array([[1.0, -1.0], [2.0, 0.5], [4.0, 0.25]])

    summed = by_contributor(scores, np.array([1, 0, 1]))

    assert summed.tolist() == [[2.0, 0.5], [5.0, -0.75]]


def test_contributors_subsets_are_measured_alike(
    kept: np.ndarray, scores: np.ndarray, stream: np.random.Generator
) -> None:
    owner = np.arange(DOCUMENTS) % 4
    contributors = np.array([stream.permutation(4) < 2 for _ in range(SUBSETS)], dtype=np.float64)
    losses = 1 - contributors[:, owner] @ scores

    found = lds(contributors, by_contributor(scores, owner), losses)

    assert found == pytest.approx(np.ones(QUERIES))


def test_the_top_one_is_hit_or_shared_or_missed() -> None:
    effects = np.array([[3.0, 3.0, 3.0, 0.0], [1.0, 1.0, 1.0, 0.0], [-1.0, -1.0, -1.0, 0.0]])
    scores = np.array([[5.0, 1.0, 2.0, 2.0], [4.0, 1.0, 9.0, 1.0], [0.0, 0.0, 0.0, 0.0]])

    assert top_hits(scores, effects) == pytest.approx([1.0, 0.5, 0.0, NAN], nan_ok=True)


def test_the_order_of_contributors_is_correlated() -> None:
    effects = np.array([[3.0, 3.0, 1.0], [1.0, 1.0, 1.0], [-1.0, -1.0, 1.0]])
    scores = np.array([[30.0, 0.0, 3.0], [2.0, 1.0, 2.0], [1.0, 5.0, 1.0]])

    assert rank_correlations(scores, effects) == pytest.approx([1.0, -1.0, NAN], nan_ok=True)


def test_the_payout_error_is_what_did_not_reach_the_right_ones() -> None:
    effects = np.array([[3.0, 3.0, 3.0, -1.0], [1.0, 1.0, 1.0, 0.0], [-2.0, -2.0, -2.0, -1.0]])
    shares = np.array([[0.75, 0.25, 0.0, 1.0], [0.25, 0.25, 0.0, 0.0], [0.0, 0.5, 0.0, 0.0]])

    assert payout_error(shares, effects) == pytest.approx([0.0, 0.5, 1.0, NAN], nan_ok=True)


def test_the_payout_error_of_whole_shares_is_half_the_sum_of_differences(
    stream: np.random.Generator,
) -> None:
    effects = stream.standard_normal((6, 4))
    shares = positive_shares(stream.standard_normal((6, 4)))
    differences = np.abs(shares - positive_shares(effects)).sum(0)

    assert payout_error(shares, effects) == pytest.approx(differences / 2)


def test_shares_are_the_positive_parts() -> None:
    values = np.array([[2.0, -1.0], [6.0, 0.0], [-4.0, -2.0]])

    assert positive_shares(values).tolist() == [[0.25, 0.0], [0.75, 0.0], [0.0, 0.0]]


def test_the_area_counts_pairs_in_order_and_half_of_ties() -> None:
    assert area_under_curve(np.array([3.0, 2.0]), np.array([1.0, 0.0])) == 1
    assert area_under_curve(np.array([1.0, 0.0]), np.array([3.0, 2.0])) == 0
    assert area_under_curve(np.array([1.0, 2.0]), np.array([1.0])) == 0.75
    assert math.isnan(area_under_curve(np.array([]), np.array([1.0])))


def test_an_interval_is_the_same_each_time_and_holds_the_mean(
    stream: np.random.Generator,
) -> None:
    values = stream.standard_normal(100)
    low, high = interval(values, seed=3)

    assert (low, high) == interval(values, seed=3)
    assert (low, high) != interval(values, seed=4)
    assert low < values.mean() < high
    # 1.96 standard errors on either side, about.
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 10, rel=0.1)


def test_an_estimate_counts_the_queries_that_had_a_value() -> None:
    found = estimate(np.array([0.5, NAN, 0.5]))

    assert (found.mean, found.low, found.high, found.count) == (0.5, 0.5, 0.5, 2)


def test_an_estimate_of_nothing_is_no_number() -> None:
    found = estimate(np.array([NAN, NAN]))

    assert found.count == 0
    assert math.isnan(found.mean)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
