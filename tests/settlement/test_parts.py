"""What each release of a mix made of a fee."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from openledger.core.types import PARTS_PER_BILLION, Account, Wei
from openledger.settlement.parts import (
    BUILDER,
    DATA,
    Earned,
    Part,
    Roles,
    earned_by_member,
    fee_parts,
    role_amounts,
)
from openledger.settlement.price import SplitPolicy
from openledger.settlement.shares import (
    ClusterScore,
    DocumentScore,
    Gain,
    MemberScores,
    combine,
    member_ppb,
)
from tests.settlement.ledger import ROLES
from tests.settlement.mixes import ALICE, BOB, CAP_PPB, NAT, member, mixes, segment

CARL = Account("0x" + "ca" * 20)
fees = st.integers(0, 10**24).map(Wei)
policies = st.integers(0, 9_000).map(
    lambda builder: SplitPolicy(1_000, builder, 0, 0, 0, 9_000 - builder)
)


@st.composite
def built_mixes(draw: st.DrawFn) -> tuple[list[MemberScores], Roles]:
    """Members and who built them: some builders have several, and contribute themselves."""
    mix = draw(mixes())
    built = draw(st.lists(st.sampled_from([ALICE, BOB, CARL]), min_size=4, max_size=4))
    return mix, msgspec.structs.replace(ROLES, builders=tuple(built[: len(mix)]))


def parts_of(
    fee: Wei, policy: SplitPolicy, roles: Roles, mix: list[MemberScores]
) -> tuple[Part, ...]:
    return fee_parts(fee, policy, roles, mix, combine(mix))


def paid(parts: tuple[Part, ...], role: str) -> dict[Account, int]:
    return {part.account: part.amount for part in parts if part.role == role}


@given(fees, policies, built_mixes())
def test_members_earn_what_their_builders_are_paid(
    fee: Wei, policy: SplitPolicy, built: tuple[list[MemberScores], Roles]
) -> None:
    mix, roles = built
    earned = earned_by_member(fee, policy, roles, mix, combine(mix))
    by_builder: dict[Account, int] = {}
    for builder, one in zip(roles.builders, earned, strict=True):
        by_builder[builder] = by_builder.get(builder, 0) + one.builder

    signed = paid(parts_of(fee, policy, roles, mix), BUILDER)
    assert {account: amount for account, amount in by_builder.items() if amount} == signed


@given(fees, policies, built_mixes())
def test_what_members_earn_and_commons_keeps_is_what_the_policy_sets_aside(
    fee: Wei, policy: SplitPolicy, built: tuple[list[MemberScores], Roles]
) -> None:
    mix, roles = built
    earned = earned_by_member(fee, policy, roles, mix, combine(mix))
    parts = parts_of(fee, policy, roles, mix)
    aside = role_amounts(fee, policy)
    # Nobody else fills a role under these policies, so that all of commons is builders' and data's.
    commons = sum(part.amount for part in parts if part.account == roles.commons)

    assert sum(one.data for one in earned) == sum(paid(parts, DATA).values())
    assert sum(one.builder + one.data for one in earned) + commons == aside[BUILDER] + aside[DATA]
    assert min(min(one.builder, one.data) for one in earned) >= 0


@given(fees, policies, built_mixes())
def test_a_member_that_added_nothing_earns_nothing(
    fee: Wei, policy: SplitPolicy, built: tuple[list[MemberScores], Roles]
) -> None:
    mix, roles = built
    earned = earned_by_member(fee, policy, roles, mix, combine(mix))

    for part, one in zip(member_ppb(mix), earned, strict=True):
        assert part or one == Earned(Wei(0), Wei(0), Wei(0))


def test_data_money_goes_by_member_where_two_have_the_same_contributor() -> None:
    """Alice's data is in both; the second release added thrice as much and has Bob's, too."""
    cluster = ClusterScore(0, 8, 0, (DocumentScore(0, ALICE, 8),))
    shared = ClusterScore(0, 8, 0, (DocumentScore(0, ALICE, 4), DocumentScore(1, BOB, 4)))
    gain = Gain(NAT, 2 * NAT, CAP_PPB, 1)  # half of the answer is owed
    mix = [
        member(segment(gain, (cluster,)), added=10),
        member(segment(gain, (shared,)), release=2, added=30),
    ]
    roles = msgspec.structs.replace(ROLES, builders=(CARL, CARL))
    policy = SplitPolicy(1_000, 4_000, 0, 0, 0, 5_000)
    earned = earned_by_member(Wei(1_600), policy, roles, mix, combine(mix))

    assert sum(share.weight_ppb for share in combine(mix).shares) == PARTS_PER_BILLION // 2
    assert earned == (
        Earned(Wei(160), Wei(100), Wei(0)),
        Earned(Wei(480), Wei(300), Wei(0)),
    )
    assert paid(parts_of(Wei(1_600), policy, roles, mix), DATA) == {ALICE: 250, BOB: 150}
