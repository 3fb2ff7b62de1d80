"""A receipt holds, and nothing about it can be changed."""

from collections.abc import Sequence
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openledger.core.encoding import decode, digest_of, encode, salted_digest
from openledger.core.errors import VerificationError
from openledger.core.signing import sign_typed
from openledger.core.types import PARTS_PER_BILLION, Account, Wei
from openledger.settlement.parts import COMMONS, Part, Roles, fee_parts
from openledger.settlement.price import SplitPolicy
from openledger.settlement.receipt import (
    NO_TRAINING_ROOT,
    Receipt,
    SignedCall,
    SignedStatement,
    StatementBody,
    canonical,
    make_statement,
    read_statement,
    sign_call,
    verify_call,
    verify_chain,
    verify_follows,
    verify_statement,
)
from openledger.settlement.shares import (
    Attribution,
    MemberScores,
    Unscored,
    combine,
)
from tests.settlement.ledger import (
    ALICE,
    BOB,
    DOMAIN,
    GATEWAY,
    GATEWAY_KEY,
    MIX,
    PAYOUTS,
    ROLES,
    body,
    call,
    pair,
    private,
    run,
    scores,
)


def check(receipt: Receipt) -> None:
    verify_call(DOMAIN, receipt.call)
    verify_follows(DOMAIN, receipt.call.call, None)
    verify_statement(DOMAIN, receipt.call, receipt.statement)


def test_an_honest_receipt_holds() -> None:
    check(pair(None))


def test_a_receipt_survives_its_bytes() -> None:
    receipt = pair(None)

    assert decode(canonical(receipt), Receipt) == receipt


@given(st.data())
def test_no_byte_of_a_receipt_can_change(data: st.DataObject) -> None:
    raw = canonical(pair(None))
    place = data.draw(st.integers(0, len(raw) - 1))
    other = data.draw(st.integers(1, 255))
    changed = raw[:place] + bytes([raw[place] ^ other]) + raw[place + 1 :]

    with pytest.raises(VerificationError):
        check(decode(changed, Receipt))


def resigned(signed: SignedCall, **changes: object) -> SignedCall:
    """The same call with other fields, signed again by a dishonest gateway."""
    struct = msgspec.structs.replace(signed.call, **changes)
    return sign_call(DOMAIN, struct, signed.body, GATEWAY_KEY)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "version 2 is unknown"),
        ({"chain_id": 1}, "another chain"),
        ({"body": "00" * 32}, "body"),
        ({"fee": Wei(1)}, "the price makes it"),
        ({"terms_version": 2}, "terms"),
    ],
)
def test_a_gateway_cannot_sign_an_inconsistent_call(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(VerificationError, match=message):
        verify_call(DOMAIN, resigned(call(None), **changes))


def test_a_refund_costs_nothing() -> None:
    signed = call(None, refund="engine_fault")

    verify_call(DOMAIN, signed)
    assert signed.call.fee == 0


def test_the_chain_has_no_gap_and_no_edit() -> None:
    calls = tuple(receipt.call.call for receipt in run(4))

    verify_chain(DOMAIN, calls)
    with pytest.raises(VerificationError, match="does not continue"):
        verify_chain(DOMAIN, (calls[0], calls[2]))
    with pytest.raises(VerificationError, match="does not continue"):
        verify_follows(DOMAIN, calls[1], None)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("statement", "version"), 9, "different versions"),
        (("body", "method"), 1, "different versions"),
        (("statement", "call"), "00" * 32, "another call"),
        (("statement", "body"), "00" * 32, "another call or body"),
    ],
)
def test_a_statement_belongs_to_its_call(
    path: tuple[str, str], value: object, message: str
) -> None:
    receipt = pair(None)
    part = msgspec.structs.replace(getattr(receipt.statement, path[0]), **{path[1]: value})
    changed = msgspec.structs.replace(receipt.statement, **{path[0]: part})

    with pytest.raises(VerificationError, match=message):
        verify_statement(DOMAIN, receipt.call, changed)


def test_a_resigned_statement_with_another_split_is_found() -> None:
    signed = call(None)
    honest = make_statement(DOMAIN, signed, "float32", scores(), ROLES, GATEWAY_KEY)
    for changes, message in (
        ({"parts": honest.body.parts[1:]}, "parts do not follow"),
        ({"attribution": Attribution((), PARTS_PER_BILLION)}, "shares do not follow"),
        ({"receipt_id": "rcp_x"}, "different receipt ids"),
        ({"members": ()}, "other releases"),
        (
            {"members": (msgspec.structs.replace(honest.body.members[0], weight_ppb=1),)},
            "weigh the mix",
        ),
    ):
        body = msgspec.structs.replace(honest.body, **changes)
        forged = _sign_body(honest, body)
        with pytest.raises(VerificationError, match=message):
            verify_statement(DOMAIN, signed, forged)


def _sign_body(honest: SignedStatement, body: StatementBody) -> SignedStatement:
    head = msgspec.structs.replace(honest.statement, body=digest_of(body))
    return msgspec.structs.replace(
        honest, statement=head, body=body, signature=sign_typed(DOMAIN, head, GATEWAY_KEY)
    )


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ({"floor": -1}, "floor of cluster 0 is below zero"),
        ({"documents": ()}, "cluster 0 is paid, but has no documents"),
        ({"score": 31}, "cluster 0 is not the sum"),
    ],
)
def test_a_resigned_statement_with_scores_that_no_method_gives_is_found(
    cluster: dict[str, object], message: str
) -> None:
    signed = call(None)
    honest = make_statement(DOMAIN, signed, "float32", scores(), ROLES, GATEWAY_KEY)
    (member,) = honest.body.members
    (segment,) = member.segments
    first, *others = segment.clusters
    changed = (msgspec.structs.replace(first, **cluster), *others)
    segment = msgspec.structs.replace(segment, clusters=changed)
    members = (msgspec.structs.replace(member, segments=(segment,)),)
    body = msgspec.structs.replace(honest.body, members=members)

    with pytest.raises(VerificationError, match=message):
        verify_statement(DOMAIN, signed, _sign_body(honest, body))


def with_segments(member: MemberScores, **changes: object) -> MemberScores:
    segments = tuple(msgspec.structs.replace(one, **changes) for one in member.segments)
    return msgspec.structs.replace(member, segments=segments)


def audited(losses: object) -> tuple[SignedCall, SignedStatement]:
    members = (with_segments(scores()[0], losses_micronats=losses),)
    plain = call(None)
    body = msgspec.structs.replace(plain.body, attribution="audited")
    struct = msgspec.structs.replace(plain.call, body=digest_of(body))
    signed = sign_call(DOMAIN, struct, body, GATEWAY_KEY)
    return signed, make_statement(DOMAIN, signed, "float32", members, ROLES, GATEWAY_KEY)


def test_an_audited_call_says_so_and_shows_the_losses_it_was_audited_by() -> None:
    signed, statement = audited((1_200_000, 1_300_000))

    verify_call(DOMAIN, signed)
    verify_statement(DOMAIN, signed, statement)
    assert decode(canonical(Receipt(signed, statement)), Receipt).call.body == signed.body


def test_a_statement_is_audited_if_and_only_if_the_call_asked_for_it() -> None:
    signed, bare = audited(msgspec.UNSET)
    with pytest.raises(VerificationError, match="influence alone"):
        verify_statement(DOMAIN, signed, bare)

    for losses in ((-1, 5), (5, 10**9 + 1), (10**400, 5)):
        _, false = audited(losses)
        with pytest.raises(VerificationError, match="half-data adapter's loss"):
            verify_statement(DOMAIN, signed, false)

    plain = call(None)
    members = (with_segments(scores()[0], losses_micronats=(1, 2)),)
    unasked = make_statement(DOMAIN, plain, "float32", members, ROLES, GATEWAY_KEY)
    with pytest.raises(VerificationError, match="did not ask"):
        verify_statement(DOMAIN, plain, unasked)


def test_an_audited_call_that_owes_nobody_anything_needs_no_losses() -> None:
    signed, _ = audited(msgspec.UNSET)
    nothing = with_segments(scores()[0], clusters=())

    verify_statement(
        DOMAIN, signed, make_statement(DOMAIN, signed, "float32", (nothing,), ROLES, GATEWAY_KEY)
    )


@pytest.mark.parametrize("field", ["input_tokens", "output_tokens"])
def test_a_resigned_call_with_fewer_than_no_tokens_is_found(field: str) -> None:
    honest = call(None)
    body = msgspec.structs.replace(honest.body, **{field: -1})
    struct = msgspec.structs.replace(honest.call, body=digest_of(body))

    with pytest.raises(VerificationError, match="fewer than 0 tokens"):
        verify_call(DOMAIN, sign_call(DOMAIN, struct, body, GATEWAY_KEY))


def unscored(reason: Unscored | None) -> MemberScores:
    return MemberScores(1, 10**9, 0, reason, ())


def stated(signed: SignedCall, *members: MemberScores, roles: Roles = ROLES) -> None:
    """Verify what a gateway signs for this call."""
    verify_statement(
        DOMAIN, signed, make_statement(DOMAIN, signed, "float32", members, roles, GATEWAY_KEY)
    )


NO_MANIFEST = (msgspec.structs.replace(MIX[0], training_root=NO_TRAINING_ROOT),)


@pytest.mark.parametrize(
    ("of_body", "reason"),
    [
        ({"refund": "engine_fault"}, Unscored.FREE),
        ({"output_tokens": 0}, Unscored.NO_ANSWER),
        ({"mix": NO_MANIFEST}, Unscored.NO_MANIFEST),
        ({}, Unscored.NOT_FINITE),
    ],
)
def test_what_has_no_scores_says_why_and_pays_no_contributor(
    of_body: dict[str, object], reason: Unscored
) -> None:
    signed = call(None, **of_body)  # type: ignore[arg-type]  # the keywords of `body`
    stated(signed, unscored(reason))

    made = make_statement(DOMAIN, signed, "float32", (unscored(reason),), ROLES, GATEWAY_KEY)
    assert made.body.attribution == Attribution((), PARTS_PER_BILLION)
    assert "data" not in {part.role for part in made.body.parts}
    assert sum(part.amount for part in made.body.parts) == signed.call.fee
    for other in set(Unscored) - {reason}:
        if other is not Unscored.NOT_FINITE:
            with pytest.raises(VerificationError, match="the call makes it"):
                stated(signed, unscored(other))


def test_segments_are_cut_as_the_method_cuts_them() -> None:
    signed = call(None, output_tokens=300)
    (member,) = scores()
    (whole,) = member.segments
    cut = [msgspec.structs.replace(whole, tokens=100)] * 3
    added = 3 * member.leave_one_out_micronats
    long = msgspec.structs.replace(member, leave_one_out_micronats=added, segments=tuple(cut))
    stated(signed, long)

    uneven = msgspec.structs.replace(cut[0], tokens=101), msgspec.structs.replace(cut[0], tokens=99)
    for segments in (tuple(cut[:2]), (*uneven, cut[2])):
        gain = sum(segment.gain.over_base_micronats for segment in segments)
        other = msgspec.structs.replace(member, leave_one_out_micronats=gain, segments=segments)
        with pytest.raises(VerificationError, match="not those that the method cuts"):
            stated(signed, other)


TWO = (
    msgspec.structs.replace(MIX[0], weight_ppb=7 * 10**8),
    msgspec.structs.replace(MIX[0], release=2, name="alice/airs@1", weight_ppb=3 * 10**8),
)


def duo(first: int, second: int) -> tuple[MemberScores, ...]:
    """Two releases by what each added, both made of Alice's and Bob's data."""
    (one,) = scores()
    return tuple(
        msgspec.structs.replace(
            one, release=mixed.release, weight_ppb=mixed.weight_ppb, leave_one_out_micronats=added
        )
        for mixed, added in zip(TWO, (first, second), strict=True)
    )


def test_a_mix_pays_builders_by_what_their_releases_added_not_by_weight() -> None:
    signed = call(None, mix=TWO)
    roles = msgspec.structs.replace(ROLES, builders=(BOB, ALICE))
    stated(signed, *duo(10, 30), roles=roles)

    made = make_statement(DOMAIN, signed, "float32", duo(10, 30), roles, GATEWAY_KEY)
    builders = {part.account: part.amount for part in made.body.parts if part.role == "builder"}
    assert builders == {BOB: 4, ALICE: 12}
    assert made.body.attribution == combine(scores())


def test_a_mix_to_which_nobody_added_leaves_both_parts_to_commons() -> None:
    signed = call(None, mix=TWO)
    roles = msgspec.structs.replace(ROLES, builders=(BOB, ALICE))
    made = make_statement(DOMAIN, signed, "float32", duo(0, -5), roles, GATEWAY_KEY)

    verify_statement(DOMAIN, signed, made)
    assert {part.role for part in made.body.parts} == {"platform", "node", COMMONS}


def test_each_member_of_a_mix_has_its_builder_and_stands_there_once() -> None:
    with pytest.raises(VerificationError, match="mix of 2 has 1 builders"):
        verify_statement(DOMAIN, call(None, mix=TWO), _of_two(ROLES))
    twice = (TWO[0], msgspec.structs.replace(TWO[1], release=1))
    members = tuple(msgspec.structs.replace(one, release=1) for one in duo(1, 2))
    roles = msgspec.structs.replace(ROLES, builders=(BOB, ALICE))
    with pytest.raises(VerificationError, match="stands twice"):
        stated(call(None, mix=twice), *members, roles=roles)


def _of_two(roles: Roles) -> SignedStatement:
    """As `make_statement` makes it for both builders, but signed with other roles."""
    both = msgspec.structs.replace(ROLES, builders=(BOB, ALICE))
    made = make_statement(DOMAIN, call(None, mix=TWO), "float32", duo(1, 2), both, GATEWAY_KEY)
    return _sign_body(made, msgspec.structs.replace(made.body, roles=roles))


@given(
    st.integers(0, 10**24).map(Wei),
    st.lists(st.integers(-(10**6), 10**6), min_size=2, max_size=5),
    st.randoms(use_true_random=False),
)
def test_the_parts_of_a_mix_sum_to_the_fee_in_whatever_order_its_members_stand(
    fee: Wei, added: list[int], order: Random
) -> None:
    (one,) = scores()
    members = [
        msgspec.structs.replace(one, release=number, leave_one_out_micronats=gain)
        for number, gain in enumerate(added)
    ]
    builders = [Account(f"0x{number:040x}") for number in range(len(added))]

    def divided(places: Sequence[int]) -> tuple[Part, ...]:
        mix = [members[place] for place in places]
        roles = msgspec.structs.replace(ROLES, builders=tuple(builders[p] for p in places))
        return fee_parts(fee, SplitPolicy(), roles, mix, combine(mix))

    places = list(range(len(added)))
    plain = divided(places)
    order.shuffle(places)

    assert sum(part.amount for part in plain) == fee
    assert divided(places) == plain


def test_a_statement_of_another_method_is_refused_by_name() -> None:
    raw = encode(pair(None).statement)
    assert read_statement(raw) == pair(None).statement
    with pytest.raises(VerificationError, match="attribution method 1"):
        read_statement(raw.replace(b'"method":2', b'"method":1'))

    older = msgspec.structs.replace(body(1), method=1)
    struct = msgspec.structs.replace(call(None).call, body=digest_of(older))
    signed = sign_call(DOMAIN, struct, older, GATEWAY_KEY)
    with pytest.raises(VerificationError, match="attribution method 1"):
        stated(signed, *scores())


def test_the_platform_part_never_returns_to_the_gateway() -> None:
    signed = call(None)
    washing = msgspec.structs.replace(ROLES, platform=GATEWAY)
    statement = make_statement(DOMAIN, signed, "float32", scores(), washing, GATEWAY_KEY)

    with pytest.raises(VerificationError, match="platform part"):
        verify_statement(DOMAIN, signed, statement)


@given(st.integers(0, 10**24).map(Wei), st.integers(0, 100), st.integers(0, 100))
def test_parts_sum_to_the_fee(fee: Wei, alice: int, bob: int) -> None:
    members = scores(alice, bob)

    parts = fee_parts(fee, SplitPolicy(), ROLES, members, combine(members))

    assert sum(part.amount for part in parts) == fee


def test_what_nobody_earns_goes_to_commons() -> None:
    alone = Roles(commons=PAYOUTS, platform=ROLES.platform, builders=ROLES.builders)

    nobody = Attribution((), PARTS_PER_BILLION)
    parts = fee_parts(Wei(10_000), SplitPolicy(), alone, scores(), nobody)

    assert {part.role: part.amount for part in parts} == {
        "platform": 1_000,
        "builder": 2_000,
        COMMONS: 7_000,
    }


def test_private_fields_open_alone() -> None:
    ring = private(1)

    assert ring.prompt_ids() == [1, 2, 3]
    assert ring.answer_ids() == [4, 5]
    assert ring.digests().prompt == salted_digest(ring.salt("prompt"), b"1 2 3")
    assert len({ring.salt(name) for name in ("payer", "time", "prompt", "answer")}) == 4
