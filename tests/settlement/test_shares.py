"""Shares: integer, complete, blind to identity."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openledger.core.errors import VerificationError
from openledger.core.types import PARTS_PER_BILLION, Account, Share
from openledger.settlement.shares import (
    Attribution,
    ClusterScore,
    DocumentScore,
    Gain,
    check_scores,
    data_share_ppb,
    distance_ppb,
    is_paid,
    shares,
)

ALICE, BOB = Account("0x" + "a1" * 20), Account("0x" + "b0" * 20)
gains = st.builds(
    Gain, st.integers(-(10**9), 10**9), st.integers(-(10**6), 10**10), st.integers(0, 10**9)
)


@st.composite
def cluster_lists(draw: st.DrawFn) -> tuple[ClusterScore, ...]:
    clusters = []
    for number in range(draw(st.integers(0, 6))):
        scores = draw(st.lists(st.integers(-(2**50), 2**50), min_size=1, max_size=5))
        documents = tuple(
            DocumentScore(number * 10 + i, draw(st.sampled_from([ALICE, BOB])), score)
            for i, score in enumerate(scores)
        )
        floor = draw(st.integers(0, 2**48))
        clusters.append(ClusterScore(number, sum(scores), floor, documents))
    return tuple(clusters)


@given(gains, cluster_lists())
def test_shares_and_nobody_sum_to_a_billion(gain: Gain, clusters: tuple[ClusterScore, ...]) -> None:
    made = shares(gain, clusters)

    assert sum(s.weight_ppb for s in made.shares) + made.nobody_ppb == PARTS_PER_BILLION
    assert all(s.weight_ppb > 0 for s in made.shares)
    assert sum(s.weight_ppb for s in made.shares) <= data_share_ppb(gain)


@given(gains, cluster_lists())
def test_splitting_documents_among_identities_changes_no_total(
    gain: Gain, clusters: tuple[ClusterScore, ...]
) -> None:
    sybil = Account("0x" + "ff" * 20)
    moved = tuple(
        ClusterScore(
            c.cluster,
            c.score,
            c.floor,
            tuple(
                DocumentScore(d.document, sybil if d.document % 2 else d.account, d.score)
                for d in c.documents
            ),
        )
        for c in clusters
    )

    assert shares(gain, moved).nobody_ppb == shares(gain, clusters).nobody_ppb


def test_no_gain_pays_nobody_else() -> None:
    cluster = ClusterScore(0, 5, 0, (DocumentScore(0, ALICE, 5),))

    assert shares(Gain(0, 10, PARTS_PER_BILLION), (cluster,)).nobody_ppb == PARTS_PER_BILLION
    assert shares(Gain(10, 0, PARTS_PER_BILLION), (cluster,)).nobody_ppb == PARTS_PER_BILLION


def test_what_falls_below_the_floor_goes_to_nobody() -> None:
    paid = ClusterScore(0, 30, 10, (DocumentScore(0, ALICE, 40), DocumentScore(1, BOB, -10)))
    below = ClusterScore(1, 10, 20, ())

    made = shares(Gain(80, 100, PARTS_PER_BILLION), (paid, below))

    assert is_paid(paid)
    assert not is_paid(below)
    assert [(s.account, s.weight_ppb) for s in made.shares] == [(ALICE, 400_000_000)]
    assert made.nobody_ppb == 600_000_000


def test_the_cap_holds() -> None:
    cluster = ClusterScore(0, 5, 0, (DocumentScore(0, ALICE, 5),))

    made = shares(Gain(99, 100, 500_000_000), (cluster,))

    assert made.shares[0].weight_ppb == 500_000_000


def test_the_cap_is_the_methods() -> None:
    check_scores(1, Gain(1, 2, 900_000_000), ())
    check_scores(1, Gain(0, 0, 7), ())
    with pytest.raises(VerificationError, match="not the cap"):
        check_scores(1, Gain(1, 2, PARTS_PER_BILLION), ())


def test_a_cluster_is_the_sum_of_its_documents() -> None:
    gain = Gain(1, 2, 900_000_000)
    check_scores(1, gain, (ClusterScore(0, 5, 9, ()),))
    with pytest.raises(VerificationError, match="not the sum"):
        check_scores(1, gain, (ClusterScore(0, 5, 0, (DocumentScore(0, ALICE, 6),)),))


def test_a_method_that_is_not_known_is_refused_even_where_nothing_was_owed() -> None:
    for gain in (Gain(1, 2, 900_000_000), Gain(0, 0, 0)):
        with pytest.raises(VerificationError, match="method 99 is unknown to this verifier"):
            check_scores(99, gain, ())


ACCOUNTS = [Account(f"0x{number:040x}") for number in range(5)]
weights = st.lists(st.integers(0, 100_000_000), min_size=5, max_size=5)


def attribution_of(parts: list[int]) -> Attribution:
    found = tuple(Share(a, part) for a, part in zip(ACCOUNTS, parts, strict=True) if part)
    return Attribution(found, PARTS_PER_BILLION - sum(parts))


@given(weights, weights, weights)
def test_the_distance_of_shares_is_a_metric_from_nothing_to_all(
    one: list[int], two: list[int], three: list[int]
) -> None:
    a, b, c = attribution_of(one), attribution_of(two), attribution_of(three)

    assert distance_ppb(a, a) == 0
    assert (distance_ppb(a, b) == 0) == (a == b)
    assert distance_ppb(a, b) == distance_ppb(b, a)
    assert distance_ppb(a, c) <= distance_ppb(a, b) + distance_ppb(b, c)
    assert distance_ppb(a, Attribution((), PARTS_PER_BILLION)) == sum(one)
