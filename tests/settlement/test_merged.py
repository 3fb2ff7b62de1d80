"""A release merged from others pays those who built them, to the wei."""

from collections.abc import Sequence
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openledger.core.errors import InvalidInputError, VerificationError
from openledger.core.types import Account, Wei
from openledger.settlement.parts import (
    BUILDER,
    COMMONS,
    PARENT,
    Parent,
    Part,
    check_parents,
    earned_by_member,
    fee_parts,
    role_amounts,
)
from openledger.settlement.price import MERGED_POLICY, Price, SplitPolicy, Terms, check_merged
from openledger.settlement.receipt import SignedStatement, make_statement, verify_statement
from openledger.settlement.shares import (
    ClusterScore,
    DocumentScore,
    MemberScores,
    Unscored,
    check_members,
    combine,
)
from tests.settlement.ledger import ALICE, BOB, DOMAIN, GATEWAY_KEY, ROLES, call, scores

PRICE = Price(Wei(100), Wei(500), Wei(10))
Merge = tuple[tuple[Parent, ...], MemberScores]


def account(number: int) -> Account:
    return Account(f"0x{number:040x}")


def member(release: int, added: int, parents: Sequence[int]) -> MemberScores:
    (one,) = scores()
    merged = known_to_all(one, parents)
    return msgspec.structs.replace(merged, release=release, leave_one_out_micronats=added)


def known_to_all(one: MemberScores, gains: Sequence[int]) -> MemberScores:
    """The same as a merge of so many parents, each of which was trained on every text."""
    known = tuple(range(len(gains))) or msgspec.UNSET
    segments = []
    for segment in one.segments:
        clusters = []
        for cluster in segment.clusters:
            documents = [msgspec.structs.replace(d, parents=known) for d in cluster.documents]
            clusters.append(msgspec.structs.replace(cluster, documents=tuple(documents)))
        segments.append(msgspec.structs.replace(segment, clusters=tuple(clusters)))
    return msgspec.structs.replace(
        one, segments=tuple(segments), parents_micronats=tuple(gains) or msgspec.UNSET
    )


@st.composite
def merges(draw: st.DrawFn) -> list[Merge]:
    """Some members of a mix, merges or not; some of the parents are built by one account."""
    found: list[Merge] = []
    for release in range(draw(st.integers(1, 4))):
        count = draw(st.integers(0, 3))
        parents = tuple(Parent(number, account(draw(st.integers(1, 4)))) for number in range(count))
        gains = draw(st.tuples(*[st.integers(-(10**6), 10**6)] * count))
        found.append((parents, member(release, draw(st.integers(-10, 10**6)), gains)))
    return found


@given(st.integers(0, 10**24).map(Wei), merges(), st.randoms(use_true_random=False))
def test_the_parent_part_is_paid_to_the_wei_in_any_order(
    fee: Wei, mix: list[Merge], order: Random
) -> None:
    places = list(range(len(mix)))
    builders = [account(10 + place) for place in places]

    def divided() -> tuple[Part, ...]:
        members = [mix[place][1] for place in places]
        roles = msgspec.structs.replace(
            ROLES,
            builders=tuple(builders[place] for place in places),
            parent=tuple(mix[place][0] for place in places),
        )
        check_parents(roles, members)
        attribution = combine(members)
        earned = earned_by_member(fee, MERGED_POLICY, roles, members, attribution)
        parts = fee_parts(fee, MERGED_POLICY, roles, members, attribution)
        for role, of_members in (
            (PARENT, [one.parent for one in earned]),
            (BUILDER, [one.builder for one in earned]),
        ):
            assert sum(part.amount for part in parts if part.role == role) == sum(of_members)
        for place, one in zip(places, earned, strict=True):
            gains = mix[place][1].parents_micronats or ()
            is_owed = any(gain > 0 for gain in gains)
            # Builder and parent part are equal in this policy, but for one wei of rounding.
            assert abs(one.parent - (one.builder if is_owed else 0)) <= 1
        return parts

    plain = divided()
    order.shuffle(places)

    assert sum(part.amount for part in plain) == fee
    assert divided() == plain


def test_who_added_more_is_paid_more_and_who_spoiled_it_nothing() -> None:
    def paid(*gains: int) -> dict[Account, int]:
        parents = tuple(Parent(number, account(number)) for number in range(len(gains)))
        roles = msgspec.structs.replace(ROLES, parent=(parents,))
        members = [member(1, 5, gains)]
        parts = fee_parts(Wei(10_000), MERGED_POLICY, roles, members, combine(members))
        return {part.account: part.amount for part in parts if part.role == PARENT}

    assert paid(300, -50, 100) == {account(0): 750, account(2): 250}
    assert paid(-1, 0) == {}
    assert paid(1, 1, 1) == {account(0): 334, account(1): 333, account(2): 333}


def test_without_parents_or_scores_their_part_goes_to_commons() -> None:
    fee, amount = Wei(10_000), role_amounts(Wei(10_000), MERGED_POLICY)[PARENT]
    parents = msgspec.structs.replace(ROLES, parent=((Parent(1, ALICE),),))
    unscored = msgspec.structs.replace(member(1, 0, ()), unscored=Unscored.NOT_FINITE, segments=())

    def of(parts: tuple[Part, ...]) -> dict[str, int]:
        return {part.role: part.amount for part in parts}

    members = [member(1, 5, (7,))]
    paid = of(fee_parts(fee, MERGED_POLICY, parents, members, combine(members)))
    nobody = of(fee_parts(fee, MERGED_POLICY, ROLES, scores(), combine(scores())))
    broken = of(fee_parts(fee, MERGED_POLICY, parents, [unscored], combine([unscored])))

    assert paid[PARENT] == amount == 1_000
    assert PARENT not in nobody
    assert PARENT not in broken
    assert nobody[COMMONS] == paid[COMMONS] + amount


@pytest.mark.parametrize(
    ("parents", "gains", "says"),
    [
        ((Parent(2, BOB), Parent(1, ALICE)), (1, 1), "rising order"),
        ((Parent(1, ALICE), Parent(1, BOB)), (1, 1), "rising order"),
        ((Parent(1, ALICE),), (), "has 1 parents and says of 0"),
        ((Parent(1, ALICE),), (1, 2), "has 1 parents and says of 2"),
        ((), (1,), "has 0 parents and says of 1"),
    ],
)
def test_a_receipt_that_does_not_say_what_each_parent_added_is_refused(
    parents: tuple[Parent, ...], gains: tuple[int, ...], says: str
) -> None:
    signed = call(None)

    def stated(parents: tuple[Parent, ...], gains: tuple[int, ...]) -> SignedStatement:
        (one,) = scores()
        roles = msgspec.structs.replace(ROLES, parent=(parents,))
        some = (known_to_all(one, gains),)
        return make_statement(DOMAIN, signed, "float32", some, roles, GATEWAY_KEY)

    verify_statement(DOMAIN, signed, stated((Parent(1, ALICE), Parent(2, BOB)), (1, -1)))
    verify_statement(DOMAIN, signed, stated((), ()))
    with pytest.raises(VerificationError, match=says):
        verify_statement(DOMAIN, signed, stated(parents, gains))


def test_every_member_of_a_mix_names_its_parents_or_none_does() -> None:
    roles = msgspec.structs.replace(ROLES, builders=(BOB, ALICE), parent=((),))

    with pytest.raises(VerificationError, match="mix of 2 names the parents of 1"):
        check_parents(roles, [member(1, 0, ()), member(2, 0, ())])


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


def test_half_of_what_builders_and_parents_had_is_left_to_parents() -> None:
    merged = Terms(1, PRICE, SplitPolicy(builder=501, parent=1_500, platform=999))

    check_merged(PRICE, SplitPolicy(builder=999, parent=1_001), [merged])
    with pytest.raises(InvalidInputError, match="at least 1001"):
        check_merged(PRICE, SplitPolicy(builder=1_000, parent=1_000), [merged])


def knowing(*documents: tuple[int, tuple[int, ...]]) -> MemberScores:
    """A merge of two, whose parents added 3 and 1: documents by score, each an account's."""
    (one,) = scores()
    (segment, *_) = one.segments
    clusters = tuple(
        ClusterScore(number, score, 0, (DocumentScore(number, account(number), score, (), known),))
        for number, (score, known) in enumerate(documents)
    )
    segments = (msgspec.structs.replace(segment, clusters=clusters),)
    return msgspec.structs.replace(one, segments=segments, parents_micronats=(3, 1))


def paid_by(member: MemberScores) -> list[int]:
    shares = {share.account: share.weight_ppb for share in combine([member]).shares}
    count = len(member.segments[0].clusters)
    return [shares.get(account(number), 0) for number in range(count)]


def test_texts_count_by_what_the_parents_that_knew_them_added() -> None:
    both, first, second = paid_by(knowing((8, (0, 1)), (8, (0,)), (8, (1,))))

    assert both == pytest.approx(first + second, abs=2)
    assert first == pytest.approx(3 * second, abs=4)
    idle = msgspec.structs.replace(
        knowing((8, (0, 1)), (8, (0,)), (8, (1,))), parents_micronats=(3, 0)
    )
    whole, own, nothing = paid_by(idle)
    assert whole == own > 0 == nothing
    spoilt = msgspec.structs.replace(idle, parents_micronats=(-1, 0))
    assert max(paid_by(spoilt)) - min(paid_by(spoilt)) <= 1  # no parent tells the texts apart
    assert min(paid_by(spoilt)) > 0


@given(
    st.lists(
        st.tuples(st.integers(-50, 10**6), st.sampled_from([(0,), (1,), (0, 1)])),
        min_size=1,
        max_size=8,
    ),
    st.tuples(st.integers(-10, 10**9), st.integers(-10, 10**9)),
)
def test_shares_of_a_merge_are_one_whole(
    documents: list[tuple[int, tuple[int, ...]]], gains: tuple[int, int]
) -> None:
    member = msgspec.structs.replace(knowing(*documents), parents_micronats=gains)

    found = combine([member])

    assert sum(one.weight_ppb for one in found.shares) + found.nobody_ppb == 10**9
    assert min((one.weight_ppb for one in found.shares), default=1) > 0
    for number, (_, known) in enumerate(documents):
        if max(gains) > 0 and not any(gains[place] > 0 for place in known):
            assert account(number) not in {one.account for one in found.shares}


@pytest.mark.parametrize("known", [(), (2,), (1, 0), (0, 0), (-1,)])
def test_a_document_of_a_merge_was_known_to_some_of_its_parents(known: tuple[int, ...]) -> None:
    check_members(2, [knowing((8, (0, 1)))])
    with pytest.raises(VerificationError, match="document 0 was known to parents"):
        check_members(2, [knowing((8, known))])
    trained = msgspec.structs.replace(knowing((8, (0,))), parents_micronats=msgspec.UNSET)
    with pytest.raises(VerificationError, match="document 0 was known to parents"):
        check_members(2, [trained])


@pytest.mark.parametrize("count", [1, 2, 4, 16])
def test_parents_divide_what_contributors_have_and_take_none_of_it(count: int) -> None:
    """However many there are, and however much stands below its floor."""
    (one,) = scores()
    (segment, *_) = one.segments
    paid = [
        ClusterScore(n, 100, 10, (DocumentScore(n, account(n), 100, (), (n,)),))
        for n in range(count)
    ]
    below = [ClusterScore(count + n, 5, 10, ()) for n in range(40)]
    segments = (msgspec.structs.replace(segment, clusters=(*paid, *below)),)
    merged = msgspec.structs.replace(one, segments=segments, parents_micronats=(7,) * count)
    known = tuple(
        msgspec.structs.replace(
            cluster,
            documents=tuple(
                msgspec.structs.replace(d, parents=msgspec.UNSET) for d in cluster.documents
            ),
        )
        for cluster in paid
    )
    plain = msgspec.structs.replace(
        one, segments=(msgspec.structs.replace(segment, clusters=(*known, *below)),)
    )

    check_members(2, [merged])
    assert combine([merged]).nobody_ppb == combine([plain]).nobody_ppb


def test_what_would_silence_contributors_is_refused() -> None:
    (one,) = scores()
    with pytest.raises(VerificationError, match="names parents that added nothing"):
        check_members(2, [msgspec.structs.replace(one, parents_micronats=())])
    unscored = msgspec.structs.replace(
        one, unscored=Unscored.NOT_FINITE, segments=(), parents_micronats=(1,)
    )
    with pytest.raises(VerificationError, match="names parents that added nothing"):
        check_members(2, [unscored])
    (segment, *_) = one.segments
    below = ClusterScore(0, 5, 10, (DocumentScore(0, ALICE, 5),))
    shown = msgspec.structs.replace(
        one, segments=(msgspec.structs.replace(segment, clusters=(below,)),)
    )
    with pytest.raises(VerificationError, match="has documents, but is not paid"):
        check_members(2, [shown])
