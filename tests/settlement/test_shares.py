"""Shares: integer, complete, blind to identity."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openledger.core.errors import VerificationError
from openledger.core.types import PARTS_PER_BILLION, Account
from openledger.settlement.shares import (
    ClusterScore,
    CreditPart,
    DocumentScore,
    Gain,
    check_scores,
    data_share_ppb,
    is_paid,
    shares,
)

ALICE, BOB = Account("0x" + "a1" * 20), Account("0x" + "b0" * 20)
gains = st.builds(
    Gain, st.integers(-(10**9), 10**9), st.integers(-(10**6), 10**10), st.integers(0, 10**9)
)
accounts = st.sampled_from([ALICE, BOB])
part_lists = st.lists(
    st.builds(CreditPart, st.sampled_from([ALICE, BOB, None]), st.integers(1, 2**40)), max_size=3
).map(tuple)


@st.composite
def cluster_lists(draw: st.DrawFn) -> tuple[ClusterScore, ...]:
    clusters = []
    for number in range(draw(st.integers(0, 6))):
        scores = draw(st.lists(st.integers(-(2**50), 2**50), min_size=1, max_size=5))
        documents = tuple(
            DocumentScore(number * 10 + i, draw(accounts), score, draw(part_lists))
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
                msgspec.structs.replace(d, account=sybil if d.document % 2 else d.account)
                for d in c.documents
            ),
        )
        for c in clusters
    )

    assert shares(gain, moved).nobody_ppb == shares(gain, clusters).nobody_ppb


@given(gains, cluster_lists())
def test_parts_of_a_document_sum_to_what_it_earns(
    gain: Gain, clusters: tuple[ClusterScore, ...]
) -> None:
    """All parts given to one account, that account has what an undivided document earns."""
    whole = tuple(
        msgspec.structs.replace(
            c,
            documents=tuple(
                msgspec.structs.replace(d, account=ALICE, parts=()) for d in c.documents
            ),
        )
        for c in clusters
    )
    divided = tuple(
        msgspec.structs.replace(
            c,
            documents=tuple(
                msgspec.structs.replace(
                    d, parts=tuple(CreditPart(ALICE, p.weight) for p in d.parts)
                )
                for d in c.documents
            ),
        )
        for c in whole
    )

    assert shares(gain, divided) == shares(gain, whole)


def test_the_earlier_account_is_paid_and_nobody_for_nobodys_part() -> None:
    parts = (CreditPart(ALICE, 3), CreditPart(None, 1))
    cluster = ClusterScore(0, 5, 0, (DocumentScore(0, BOB, 5, parts),))

    made = shares(Gain(1, 1, 800_000_000), (cluster,))

    assert [(s.account, s.weight_ppb) for s in made.shares] == [(ALICE, 600_000_000)]
    assert made.nobody_ppb == 400_000_000


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


def test_a_part_without_weight_is_refused() -> None:
    parts = (CreditPart(ALICE, 1), CreditPart(BOB, 0))
    cluster = ClusterScore(0, 5, 0, (DocumentScore(0, ALICE, 5, parts),))

    with pytest.raises(VerificationError, match="no weight"):
        check_scores(1, Gain(1, 2, 900_000_000), (cluster,))
