"""Shares: integer, complete, blind to identity."""

from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openledger.core.errors import VerificationError
from openledger.core.types import PARTS_PER_BILLION, Account, Share
from openledger.settlement.shares import (
    LEAST_OVER_NULL_MICRONATS,
    MOST_GAIN_MICRONATS,
    PLACEBO_SPREAD_MICRONATS,
    Attribution,
    ClusterScore,
    CreditPart,
    DocumentScore,
    Gain,
    MemberScores,
    Unscored,
    check_members,
    check_method,
    combine,
    data_share_ppb,
    distance_ppb,
    is_paid,
    member_ppb,
    owed_micronats,
    segment_lengths,
)
from tests.settlement.mixes import (
    ALICE,
    BOB,
    CAP_PPB,
    NAT,
    cluster_lists,
    gains,
    member,
    mixes,
    segment,
)


def shares(gain: Gain, clusters: tuple[ClusterScore, ...]) -> Attribution:
    """Of a short answer by one release."""
    return combine([member(segment(gain, clusters))])


def total(made: Attribution) -> int:
    return sum(share.weight_ppb for share in made.shares)


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

    made = shares(Gain(NAT, NAT, 800_000_000, 1), (cluster,))

    assert [(s.account, s.weight_ppb) for s in made.shares] == [(ALICE, 600_000_000)]
    assert made.nobody_ppb == 400_000_000


def test_no_gain_pays_nobody_else() -> None:
    cluster = ClusterScore(0, 5, 0, (DocumentScore(0, ALICE, 5),))

    for over_base in (-PLACEBO_SPREAD_MICRONATS, -NAT):
        made = shares(Gain(over_base, NAT, PARTS_PER_BILLION, 1), (cluster,))
        assert made == Attribution((), PARTS_PER_BILLION)


def test_what_falls_below_the_floor_goes_to_nobody() -> None:
    paid = ClusterScore(0, 30, 10, (DocumentScore(0, ALICE, 40), DocumentScore(1, BOB, -10)))
    below = ClusterScore(1, 10, 20, ())

    made = shares(Gain(80 * NAT, 100 * NAT, PARTS_PER_BILLION, 1), (paid, below))

    assert is_paid(paid)
    assert not is_paid(below)
    assert [(s.account, s.weight_ppb) for s in made.shares] == [(ALICE, 400_000_000)]
    assert made.nobody_ppb == 600_000_000


def test_the_cap_holds() -> None:
    cluster = ClusterScore(0, 5, 0, (DocumentScore(0, ALICE, 5),))

    made = shares(Gain(99 * NAT, 100 * NAT, 500_000_000, 1), (cluster,))

    assert made.shares[0].weight_ppb == 500_000_000


def test_the_cap_is_the_methods() -> None:
    check_members(2, [member(segment(Gain(1, 2, CAP_PPB, 1), ()))])
    with pytest.raises(VerificationError, match="not the cap"):
        check_members(2, [member(segment(Gain(1, 2, PARTS_PER_BILLION, 1), ()))])


def test_a_cluster_is_the_sum_of_its_documents() -> None:
    gain = Gain(1, 2, CAP_PPB, 1)
    check_members(2, [member(segment(gain, (ClusterScore(0, 5, 9, ()),)))])
    wrong = ClusterScore(0, 5, 0, (DocumentScore(0, ALICE, 6),))
    with pytest.raises(VerificationError, match="not the sum"):
        check_members(2, [member(segment(gain, (wrong,)))])


@given(
    st.integers(-(10**7), 10**8),
    st.integers(-(10**7), 10**8),
    st.integers(0, 10**7),
    st.booleans(),
    st.integers(0, 100),
)
def test_a_small_change_of_the_gain_changes_the_data_share_little(
    over_base: int, over_null: int, change: int, is_base: bool, tokens: int
) -> None:
    """Nowhere do two honest machines that round differently pay much different amounts."""
    one = Gain(over_base, over_null, CAP_PPB, tokens)
    other = Gain(over_base + change * is_base, over_null + change * (not is_base), CAP_PPB, tokens)
    # Of all, and of a part of the answer.
    for of_ppb in (PARTS_PER_BILLION, 400_000_000):
        moved = abs(data_share_ppb(other, of_ppb) - data_share_ppb(one, of_ppb))
        assert moved <= of_ppb * (change + 1) // LEAST_OVER_NULL_MICRONATS + 1


@given(gains, st.integers(0, 10**8))
def test_a_gain_over_the_base_is_owed_no_less_when_it_grows(gain: Gain, more: int) -> None:
    grown = msgspec.structs.replace(gain, over_base_micronats=gain.over_base_micronats + more)

    assert data_share_ppb(grown) >= data_share_ppb(gain)


def test_what_is_owed_is_the_mean_over_what_sampling_may_have_gained() -> None:
    spread = 3 * PLACEBO_SPREAD_MICRONATS  # of three tokens

    for added in (-spread - 1, -spread, -spread // 2, -1, 0, 1, spread // 3, spread, 2 * spread):
        mean = sum(max(0, added - x) for x in range(-spread + 500, spread, 1_000)) * 500 / spread
        assert owed_micronats(Gain(added, NAT, CAP_PPB, 3)) == pytest.approx(mean, abs=2)


@given(gains)
def test_nothing_is_owed_beyond_the_gain_but_for_a_quarter_of_the_spread(gain: Gain) -> None:
    least = max(0, gain.over_base_micronats)

    assert least <= owed_micronats(gain) <= least + gain.tokens * PLACEBO_SPREAD_MICRONATS // 4


def test_no_more_tokens_count_than_there_are_nor_gain_more_than_they_can() -> None:
    def check(over_base: int, tokens: int) -> None:
        check_members(2, [member(segment(Gain(over_base, 2, CAP_PPB, tokens), (), 5))])

    for over_base, tokens in ((0, 0), (-1, 0), (MOST_GAIN_MICRONATS, 1), (5 * 2_900_000, 5)):
        check(over_base, tokens)
    for tokens in (-1, 6):
        with pytest.raises(VerificationError, match=f"{tokens} of 5 tokens cannot count"):
            check(0, tokens)
    for over_base, tokens in ((1, 0), (MOST_GAIN_MICRONATS + 1, 1)):
        with pytest.raises(VerificationError, match=f"{tokens} tokens gain less"):
            check(over_base, tokens)


def test_the_least_denominator_is_one_nat() -> None:
    least = LEAST_OVER_NULL_MICRONATS
    shares = {
        -(10**9): 0,
        0: 0,
        least // 2: 250_000_000,
        least: 500_000_000,
        2 * least: 250_000_000,
    }

    for over_null, share in shares.items():
        assert data_share_ppb(Gain(500_000, over_null, CAP_PPB, 1)) == share
    assert data_share_ppb(Gain(0, 0, CAP_PPB, 0)) == 0


def test_a_part_without_weight_is_refused() -> None:
    gain = Gain(1, 2, CAP_PPB, 1)
    parts = (CreditPart(ALICE, 1), CreditPart(BOB, 0))
    cluster = ClusterScore(0, 5, 0, (DocumentScore(0, ALICE, 5, parts),))

    with pytest.raises(VerificationError, match="no weight"):
        check_members(2, [member(segment(gain, (cluster,)))])


def test_another_method_is_refused_by_name() -> None:
    check_method(2)
    with pytest.raises(VerificationError, match=r"attribution method 1, .* knows 2"):
        check_method(1)


@pytest.mark.parametrize(
    "changes",
    [{"segments": ()}, {"unscored": Unscored.NOT_FINITE}],
    ids=["neither", "both"],
)
def test_a_member_has_scores_or_a_reason_for_none(changes: dict[str, object]) -> None:
    honest = member(segment(Gain(1, 2, CAP_PPB, 1), ()))

    with pytest.raises(VerificationError, match="or a reason"):
        check_members(2, [msgspec.structs.replace(honest, **changes)])


def test_members_of_one_mix_agree_about_its_gain() -> None:
    one, other = segment(Gain(1, 2, CAP_PPB, 1), ()), segment(Gain(1, 9, CAP_PPB, 1), ())
    check_members(2, [member(one), member(other, release=2, added=-7)])
    for gain in (Gain(2, 9, CAP_PPB, 1), Gain(1, 9, CAP_PPB, 2)):
        third = segment(gain, ())
        with pytest.raises(VerificationError, match="differ about its gain"):
            check_members(2, [member(one), member(third, release=2, added=-7)])


def test_who_answered_alone_added_the_gain_over_the_base() -> None:
    with pytest.raises(VerificationError, match="something else"):
        check_members(2, [member(segment(Gain(1, 2, CAP_PPB, 1), ()), added=2)])


@given(st.integers(0, 5_000))
def test_an_answer_is_cut_into_few_and_equal_segments(tokens: int) -> None:
    cut = segment_lengths(tokens)

    assert sum(cut) == tokens
    assert len(cut) == -(-tokens // 128)
    assert all(0 < length <= 128 for length in cut)
    assert not cut or max(cut) - min(cut) <= 1


def test_a_short_answer_is_one_segment() -> None:
    assert [segment_lengths(tokens) for tokens in (0, 1, 128, 129)] == [[], [1], [128], [65, 64]]


def test_segments_count_by_their_tokens() -> None:
    """Nobody's half of an answer is not paid to whoever made the other half."""
    by_alice = segment(
        Gain(9 * NAT, 10 * NAT, CAP_PPB, 1), (ClusterScore(0, 5, 0, (_all_of(ALICE),)),), 100
    )
    by_bob = segment(
        Gain(5 * NAT, 10 * NAT, CAP_PPB, 1), (ClusterScore(0, 5, 0, (_all_of(BOB),)),), 60
    )
    nobodys = segment(Gain(-NAT, 10 * NAT, CAP_PPB, 1), (), 40)

    made = combine([member(by_alice, by_bob, nobodys)])

    assert {s.account: s.weight_ppb for s in made.shares} == {ALICE: 450_000_000, BOB: 150_000_000}


@given(mixes())
def test_a_mix_of_long_answers_is_divided_whole(mix: list[MemberScores]) -> None:
    made = combine(mix)

    assert total(made) + made.nobody_ppb == PARTS_PER_BILLION
    assert sum(member_ppb(mix)) in (0, PARTS_PER_BILLION)
    assert min(member_ppb(mix)) >= 0


@given(mixes(), st.randoms(use_true_random=False))
def test_the_order_of_the_members_decides_nothing(mix: list[MemberScores], order: Random) -> None:
    shuffled = list(mix)
    order.shuffle(shuffled)
    parts = {one.release: part for one, part in zip(mix, member_ppb(mix), strict=True)}

    assert combine(shuffled) == combine(mix)
    assert [parts[one.release] for one in shuffled] == member_ppb(shuffled)


@given(gains, cluster_lists())
def test_who_adds_nothing_takes_nothing_from_the_others(
    gain: Gain, clusters: tuple[ClusterScore, ...]
) -> None:
    alone = member(segment(gain, clusters), added=7)
    idle = member(segment(gain, clusters), release=2, added=0)

    assert member_ppb([alone, idle]) == [PARTS_PER_BILLION, 0]
    assert combine([alone, idle]) == combine([alone])


def test_a_mix_to_which_nobody_added_pays_nobody() -> None:
    owed = segment(Gain(9 * NAT, 10 * NAT, CAP_PPB, 1), (ClusterScore(0, 5, 0, (_all_of(ALICE),)),))
    mix = [member(owed, added=0), member(owed, release=2, added=-1)]

    assert member_ppb(mix) == [0, 0]
    assert combine(mix) == Attribution((), PARTS_PER_BILLION)


def test_a_member_without_scores_leaves_its_part_to_nobody() -> None:
    owed = segment(
        Gain(99 * NAT, 100 * NAT, CAP_PPB, 1), (ClusterScore(0, 5, 0, (_all_of(ALICE),)),)
    )
    unknown = MemberScores(2, 1, 300, Unscored.NO_MANIFEST, ())

    made = combine([member(owed, added=100), unknown])

    assert [share.weight_ppb for share in made.shares] == [225_000_000]


def _all_of(account: Account) -> DocumentScore:
    return DocumentScore(0, account, 5)


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
