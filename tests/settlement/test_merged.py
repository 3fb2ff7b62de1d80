"""A release merged from others pays those who built them, to the wei."""

from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openledger.core.errors import InvalidInputError, NothingToSplitError, VerificationError
from openledger.core.types import BASIS_POINTS, PARTS_PER_BILLION, Account, Wei
from openledger.settlement.parts import (
    COMMONS,
    PARENT,
    Ancestor,
    Parent,
    Part,
    check_parents,
    check_roles,
    fee_parts,
    inherited,
)
from openledger.settlement.price import MERGED_POLICY, Price, SplitPolicy, Terms, check_merged
from openledger.settlement.receipt import SignedStatement, make_statement, verify_statement
from openledger.settlement.shares import Attribution
from openledger.settlement.split import apportion
from tests.settlement.ledger import ALICE, BOB, DOMAIN, GATEWAY, GATEWAY_KEY, ROLES, call, scores

HALF = PARTS_PER_BILLION // 2
PRICE = Price(Wei(100), Wei(500), Wei(10))
NOTHING = Attribution((), PARTS_PER_BILLION)
accounts = st.integers(1, 6).map(lambda number: Account(f"0x{number:040x}"))


@st.composite
def parents(draw: st.DrawFn) -> tuple[Parent, ...]:
    who = sorted(draw(st.sets(accounts, max_size=4)))
    if not who:
        return ()
    weights = apportion(
        PARTS_PER_BILLION - len(who), draw(st.tuples(*[st.integers(1, 10**6)] * len(who)))
    )
    return tuple(Parent(one, weight + 1) for one, weight in zip(who, weights, strict=True))


@st.composite
def ancestors(draw: st.DrawFn) -> Ancestor:
    builder = draw(st.integers(0, 4_000))
    parent = draw(st.integers(0, 4_000 - builder))
    policy = SplitPolicy(builder=builder, parent=parent, data=7_000 - builder - parent)
    return Ancestor(draw(accounts), policy, draw(parents()), draw(st.integers(-(10**9), 10**9)))


@given(st.lists(ancestors(), min_size=1, max_size=6))
def test_what_is_inherited_is_one_whole(members: list[Ancestor]) -> None:
    found = inherited(members)

    check_parents(found)
    assert found
    known = {one.builder for one in members} | {p.account for one in members for p in one.parents}
    assert {one.account for one in found} <= known


def test_who_added_more_inherits_more_and_who_spoiled_it_nothing() -> None:
    added = (300, -50, 100)
    members = [
        Ancestor(Account(f"0x{number:040x}"), SplitPolicy(), (), gain)
        for number, gain in enumerate(added)
    ]

    assert [one.weight_ppb for one in inherited(members)] == [750_000_000, 250_000_000]
    idle = [msgspec.structs.replace(one, added_micronats=-1) for one in members]
    assert [one.weight_ppb for one in inherited(idle)] == [333_333_334, 333_333_333, 333_333_333]
    with pytest.raises(NothingToSplitError):
        inherited([])


def test_a_merge_of_a_merge_pays_the_grandparents() -> None:
    merged = Ancestor(ALICE, MERGED_POLICY, (Parent(BOB, PARTS_PER_BILLION),), 5)
    alone = Ancestor(BOB, SplitPolicy(), (), 5)

    found = {one.account: one.weight_ppb for one in inherited([merged, alone])}

    assert found == {ALICE: 250_000_000, BOB: 750_000_000}


@given(
    st.integers(0, 10**24).map(Wei),
    st.lists(st.tuples(parents(), st.integers(0, 10**6)), min_size=1, max_size=4),
    st.randoms(use_true_random=False),
)
def test_the_parent_part_is_paid_to_the_wei_in_any_order(
    fee: Wei, mix: list[tuple[tuple[Parent, ...], int]], order: Random
) -> None:
    gains = [gain for _, gain in mix]
    earned = apportion(PARTS_PER_BILLION if sum(gains) else 0, gains)
    places = list(range(len(mix)))

    def divided() -> tuple[Part, ...]:
        roles = msgspec.structs.replace(
            ROLES, builders=(BOB,) * len(mix), parent=tuple(mix[place][0] for place in places)
        )
        check_roles(roles, GATEWAY, len(mix))
        return fee_parts(fee, MERGED_POLICY, roles, [earned[place] for place in places], NOTHING)

    plain = divided()
    order.shuffle(places)

    assert sum(part.amount for part in plain) == fee
    assert divided() == plain
    paid = sum(part.amount for part in plain if part.role == PARENT)
    most = apportion(fee, [MERGED_POLICY.parent, BASIS_POINTS - MERGED_POLICY.parent])[0]
    owed = sum(gain for (some, _), gain in zip(mix, earned, strict=True) if some)
    assert abs(paid - most * owed // PARTS_PER_BILLION) <= 1 + len(mix)


def test_without_parents_their_part_goes_to_commons() -> None:
    members = [PARTS_PER_BILLION]
    plain = fee_parts(Wei(10_000), MERGED_POLICY, ROLES, members, NOTHING)
    merged = msgspec.structs.replace(ROLES, parent=((Parent(ALICE, PARTS_PER_BILLION),),))
    paid = fee_parts(Wei(10_000), MERGED_POLICY, merged, members, NOTHING)

    of = {part.role: part.amount for part in plain}
    assert PARENT not in of
    assert {part.role: part.amount for part in paid} == of | {
        PARENT: 1_000,
        COMMONS: of[COMMONS] - 1_000,
    }


@pytest.mark.parametrize(
    "bad",
    [
        (Parent(ALICE, HALF),),
        (Parent(ALICE, PARTS_PER_BILLION + 1), Parent(BOB, -1)),
        (Parent(BOB, HALF), Parent(ALICE, HALF)),
        (Parent(ALICE, HALF), Parent(ALICE, HALF)),
        (Parent(ALICE, 0), Parent(BOB, PARTS_PER_BILLION)),
    ],
)
def test_parents_that_are_no_parts_of_one_are_refused(bad: tuple[Parent, ...]) -> None:
    assert ALICE < BOB
    with pytest.raises(VerificationError, match="the parents of a release"):
        check_roles(msgspec.structs.replace(ROLES, parent=(bad,)), GATEWAY, 1)


def test_a_receipt_whose_parents_are_no_parts_of_one_is_refused() -> None:
    signed = call(None)

    def stated(parent: Parent) -> SignedStatement:
        roles = msgspec.structs.replace(ROLES, parent=((parent,),))
        return make_statement(DOMAIN, signed, "float32", scores(), roles, GATEWAY_KEY)

    verify_statement(DOMAIN, signed, stated(Parent(ALICE, PARTS_PER_BILLION)))
    with pytest.raises(VerificationError, match="do not divide one part"):
        verify_statement(DOMAIN, signed, stated(Parent(ALICE, HALF)))


def test_every_member_of_a_mix_names_its_parents_or_none_does() -> None:
    roles = msgspec.structs.replace(ROLES, builders=(BOB, ALICE), parent=((),))

    with pytest.raises(VerificationError, match="mix of 2 names the parents of 1"):
        check_roles(roles, GATEWAY, 2)


def test_a_merge_takes_nothing_from_its_members() -> None:
    plain = Terms(1, PRICE, SplitPolicy())
    dear = Terms(2, Price(Wei(1), Wei(900), Wei(1)), SplitPolicy())
    price = Price(Wei(100), Wei(900), Wei(10))

    check_merged(price, MERGED_POLICY, [plain, dear])
    for name in Price.__struct_fields__:
        cheap = msgspec.structs.replace(price, **{name: getattr(price, name) - 1})
        with pytest.raises(InvalidInputError, match="a merge costs at least what its dearest"):
            check_merged(cheap, MERGED_POLICY, [plain, dear])
    greedy = SplitPolicy(builder=1_001, parent=999)
    with pytest.raises(InvalidInputError, match="parent part of this merge is at least 1000"):
        check_merged(price, greedy, [plain])
    stingy = SplitPolicy(builder=1_000, parent=1_001, data=4_999)
    with pytest.raises(InvalidInputError, match="data part of this merge is at least 5000"):
        check_merged(price, stingy, [plain])


def test_a_merge_of_a_merge_leaves_half_of_what_builders_and_parents_had() -> None:
    merged = Terms(1, PRICE, SplitPolicy(builder=501, parent=1_500, platform=999))

    check_merged(PRICE, SplitPolicy(builder=999, parent=1_001), [merged])
    with pytest.raises(InvalidInputError, match="at least 1001"):
        check_merged(PRICE, SplitPolicy(builder=1_000, parent=1_000), [merged])
