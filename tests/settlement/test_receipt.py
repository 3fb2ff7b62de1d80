"""A receipt holds, and nothing about it can be changed."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openledger.core.encoding import decode, digest_of, salted_digest
from openledger.core.errors import VerificationError
from openledger.core.signing import sign_typed
from openledger.core.types import PARTS_PER_BILLION, Wei
from openledger.settlement.parts import COMMONS, Roles, fee_parts
from openledger.settlement.price import SplitPolicy
from openledger.settlement.receipt import (
    Receipt,
    SignedCall,
    SignedStatement,
    StatementBody,
    canonical,
    make_statement,
    sign_call,
    verify_call,
    verify_chain,
    verify_follows,
    verify_statement,
)
from openledger.settlement.shares import (
    Attribution,
    combine,
    member_ppb,
)
from tests.settlement.ledger import (
    DOMAIN,
    GATEWAY,
    GATEWAY_KEY,
    PAYOUTS,
    ROLES,
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
    honest = make_statement(DOMAIN, signed, scores(), ROLES, GATEWAY_KEY)
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
    honest = make_statement(DOMAIN, signed, scores(), ROLES, GATEWAY_KEY)
    (member,) = honest.body.members
    (segment,) = member.segments
    first, *others = segment.clusters
    changed = (msgspec.structs.replace(first, **cluster), *others)
    segment = msgspec.structs.replace(segment, clusters=changed)
    members = (msgspec.structs.replace(member, segments=(segment,)),)
    body = msgspec.structs.replace(honest.body, members=members)

    with pytest.raises(VerificationError, match=message):
        verify_statement(DOMAIN, signed, _sign_body(honest, body))


@pytest.mark.parametrize("field", ["input_tokens", "output_tokens"])
def test_a_resigned_call_with_fewer_than_no_tokens_is_found(field: str) -> None:
    honest = call(None)
    body = msgspec.structs.replace(honest.body, **{field: -1})
    struct = msgspec.structs.replace(honest.call, body=digest_of(body))

    with pytest.raises(VerificationError, match="fewer than 0 tokens"):
        verify_call(DOMAIN, sign_call(DOMAIN, struct, body, GATEWAY_KEY))


def test_the_platform_part_never_returns_to_the_gateway() -> None:
    signed = call(None)
    washing = msgspec.structs.replace(ROLES, platform=GATEWAY)
    statement = make_statement(DOMAIN, signed, scores(), washing, GATEWAY_KEY)

    with pytest.raises(VerificationError, match="platform part"):
        verify_statement(DOMAIN, signed, statement)


@given(st.integers(0, 10**24).map(Wei), st.integers(0, 100), st.integers(0, 100))
def test_parts_sum_to_the_fee(fee: Wei, alice: int, bob: int) -> None:
    members = scores(alice, bob)

    parts = fee_parts(fee, SplitPolicy(), ROLES, member_ppb(members), combine(members))

    assert sum(part.amount for part in parts) == fee


def test_what_nobody_earns_goes_to_commons() -> None:
    alone = Roles(commons=PAYOUTS, platform=ROLES.platform, builders=ROLES.builders)

    parts = fee_parts(
        Wei(10_000), SplitPolicy(), alone, [10**9], Attribution((), PARTS_PER_BILLION)
    )

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
