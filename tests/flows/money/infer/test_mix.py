"""Calls of a weighted sum of releases: what is asked, held, signed, attributed and refused."""

from hashlib import sha256

import msgspec
import pytest

from openledger.core.encoding import decode, digest_of
from openledger.core.errors import (
    ConflictError,
    InsufficientBalanceError,
    InvalidInputError,
    NotAllowedError,
    NotFoundError,
    OpenLedgerError,
    VerificationError,
)
from openledger.core.types import PARTS_PER_BILLION, Digest, ReceiptId, Wei
from openledger.flows.money.infer import answer
from openledger.flows.money.infer.meter import Answered
from openledger.flows.money.infer.request import CallRequest, Decoding, Desk
from openledger.flows.money.verify.public import verify_bundle
from openledger.lm.tokenizer import Tokenizer
from openledger.operations.receipts import ShowReceipt
from openledger.serving.request import MixMember as EngineMember
from openledger.settlement.parts import BUILDER
from openledger.settlement.price import MIX_TERMS_VERSION, Price, SplitPolicy, Terms, fee
from openledger.settlement.receipt import Private, SignedCall, sign_call, verify_call
from openledger.storage.records.model import releases
from openledger.storage.records.money import balances, calls
from openledger.web.operations import receipts
from openledger.wiring.platform import Platform
from tests import market as fair

TUNES, OTHER = "openledger/tiny-tunes@1", "openledger/other@1"
BOTH = f"mix:{TUNES}*0.7+{OTHER}*0.3"
OTHER_ADAPTER = Digest(sha256(b"other").hexdigest())
# Dearer for what is read, cheaper for what is written.
OTHER_PRICE = Price(Wei(3 * 10**15), Wei(10**15), Wei(10**14))
DEAREST = Price(Wei(3 * 10**15), Wei(5 * 10**15), Wei(10**14))
GREEDY = Decoding(temperature_milli=0)


@pytest.fixture
def desk(market: Platform, tokenizer: Tokenizer) -> Desk:
    return fair.desk_of_two(market, tokenizer, price=OTHER_PRICE)


def ask(market: Platform, model: str = BOTH, **changes: object) -> CallRequest:
    request = CallRequest(fair.payer(market).address, model, "X:1\n", max_tokens=20)
    return msgspec.structs.replace(request, decoding=GREEDY, **changes)


def signed(market: Platform, receipt: ReceiptId) -> SignedCall:
    with market.database.read() as transaction:
        return decode(calls.get(transaction, receipt).record, SignedCall)


def text_of(desk: Desk, request: CallRequest) -> str:
    return "".join(answer.start(desk, request))


def change(market: Platform, statement: str) -> None:
    with market.database.transaction() as transaction:
        transaction.connection.exec_driver_sql(statement)


def test_a_mix_is_answered_by_its_weighted_adapters_and_signed(
    market: Platform, desk: Desk
) -> None:
    made = answer.start(desk, ask(market))
    assert isinstance(made, answer.Inference)
    asked = made._stream.request  # type: ignore[attr-defined]  # of FakeStream
    list(made)
    call = signed(market, made.receipt_id)
    verify_call(market.gateway.domain, call)

    assert asked.mix == (EngineMember(fair.ADAPTER, 0.7), EngineMember(OTHER_ADAPTER, 0.3))
    assert [(one.name, one.weight_ppb) for one in call.body.mix] == [
        (TUNES, 700_000_000),
        (OTHER, 300_000_000),
    ]
    assert call.body.terms == Terms(MIX_TERMS_VERSION, DEAREST, SplitPolicy())
    assert call.call.terms_version == MIX_TERMS_VERSION
    assert [one.terms.price for one in call.body.mix if isinstance(one.terms, Terms)] == [
        fair.PRICE,
        OTHER_PRICE,
    ]


def test_a_mix_costs_the_highest_of_its_members_prices_and_holds_them_first(
    market: Platform, desk: Desk
) -> None:
    payer = fair.payer(market).address
    made = answer.start(desk, ask(market))
    with market.database.transaction() as transaction:
        held = balances.position(transaction, market.gateway.account, payer).held
    list(made)
    result = made.result()

    assert held == fee(DEAREST, result.input_tokens, 20)
    assert result.fee == fee(DEAREST, result.input_tokens, result.output_tokens)


def test_the_order_in_which_a_mix_is_written_changes_nothing(market: Platform, desk: Desk) -> None:
    forth, back = ask(market), ask(market, f"mix:{OTHER}*0.3+openledger/tiny-tunes*0.70")
    texts = [text_of(desk, one) for one in (forth, back)]
    other = text_of(desk, ask(market, f"mix:{TUNES}*0.3+{OTHER}*0.7"))

    assert texts[0] == texts[1] != other


def test_a_release_in_a_mix_of_its_own_is_a_call_of_that_release(
    market: Platform, desk: Desk
) -> None:
    alone, mixed = (
        answer.start(desk, ask(market, TUNES)),
        answer.start(desk, ask(market, f"mix:{TUNES}")),
    )
    half = answer.start(desk, ask(market, f"mix:{TUNES}*0.5"))
    texts = ["".join(one) for one in (alone, mixed, half)]
    bodies = [signed(market, one.receipt_id).body for one in (alone, mixed, half)]

    assert texts[0] == texts[1] != texts[2]
    assert bodies[0].mix == bodies[1].mix
    assert [body.terms for body in bodies] == [bodies[0].terms] * 3
    assert bodies[0].terms.version == 1
    assert b"terms" not in msgspec.json.encode(bodies[0].mix)
    assert bodies[2].mix[0].weight_ppb == PARTS_PER_BILLION // 2


def test_the_seed_of_a_mix_names_all_of_it(market: Platform, desk: Desk) -> None:
    made = answer.start(desk, ask(market, nonce="7"))
    list(made)
    with market.database.read() as transaction:
        sealed = calls.get(transaction, made.receipt_id).private
    assert sealed is not None
    private = decode(market.sealer.unseal(made.receipt_id, sealed), Private)

    assert private.nonce == "7|1|1*700000000+2*300000000"


NINE = "+".join(f"nobody/m{number}" for number in range(9))


WRONG: tuple[tuple[str, type[OpenLedgerError], str], ...] = (
    (f"mix:{TUNES}*0.7+openledger/othr*0.3", NotFoundError, "did you mean openledger/other@1"),
    (f"mix:{TUNES}+openledger/other@2", NotFoundError, "no model openledger/other@2"),
    (f"mix:{TUNES}*0.7+openledger/tiny-tunes*0.3", InvalidInputError, "add up its weights"),
    (f"mix:{TUNES}*0+{OTHER}*0", InvalidInputError, "not 0"),
    (f"mix:{TUNES}*0", InvalidInputError, "not 0"),
    (f"mix:{TUNES}*0.5+{OTHER}*-0.5", InvalidInputError, "sum to 0.*unevenly"),
    (f"mix:{TUNES}*nan+{OTHER}", InvalidInputError, "no weight"),
    (f"mix:{TUNES}*11+{OTHER}", InvalidInputError, "between -10 and 10"),
    (f"mix:{NINE}", InvalidInputError, "at most 8 members here, not 9"),
)


def test_a_wrong_mix_is_refused_and_holds_nothing(market: Platform, desk: Desk) -> None:
    payer = fair.payer(market).address
    for model, error, message in WRONG:
        with pytest.raises(error, match=message):
            answer.start(desk, ask(market, model, idempotency_key="once"))
    with market.database.transaction() as transaction:
        has = balances.position(transaction, market.gateway.account, payer)

    assert (has.held, has.fees) == (0, 0)
    assert text_of(desk, ask(market, idempotency_key="once"))  # the key is free


def test_each_member_of_a_mix_is_metered_for_itself(market: Platform, desk: Desk) -> None:
    mixed, alone = answer.start(desk, ask(market)), answer.start(desk, ask(market, TUNES))
    texts = ["".join(one) for one in (mixed, alone)]
    both, one = mixed.result(), alone.result()

    assert all(texts)
    assert desk.meter.answered() == {
        OTHER: Answered(1, 1, both.input_tokens, both.output_tokens),
        TUNES: Answered(
            2, 1, both.input_tokens + one.input_tokens, both.output_tokens + one.output_tokens
        ),
    }


def deprecate_other(market: Platform) -> None:
    with market.database.read() as transaction:
        release = releases.by_number(transaction, 2)
    assert release is not None
    market.publish.deprecate(release, fair.operator(market))


SPOILT: tuple[tuple[str, str, type[OpenLedgerError], str], ...] = (
    (
        f"base = '{'c' * 64}'",
        f"base = '{fair.BASE}'",
        InvalidInputError,
        "openledger/other@1 is made for another base model than openledger/tiny-tunes@1",
    ),
    (
        f"adapter = '{fair.ADAPTER}'",
        f"adapter = '{OTHER_ADAPTER}'",
        InvalidInputError,
        "openledger/tiny-tunes@1 and openledger/other@1 are one adapter",
    ),
    ("number = NULL", "number = 2", NotFoundError, "openledger/other@1 is still being published"),
)


def test_a_member_that_cannot_answer_is_named(market: Platform, desk: Desk) -> None:
    for spoilt, sound, error, message in SPOILT:
        change(market, f"UPDATE releases SET {spoilt} WHERE name = 'other'")
        with pytest.raises(error, match=message):
            answer.start(desk, ask(market))
        change(market, f"UPDATE releases SET {sound} WHERE name = 'other'")
    deprecate_other(market)

    with pytest.raises(NotAllowedError, match="openledger/other@1 is deprecated"):
        answer.start(desk, ask(market))


def test_releases_that_divide_fees_in_different_ways_are_not_mixed(
    market: Platform, desk: Desk
) -> None:
    fair.publish_another(
        market, "generous", b"generous", policy=SplitPolicy(builder=1_000, data=6_000)
    )

    with pytest.raises(InvalidInputError, match="in different ways"):
        answer.start(desk, ask(market, f"mix:{TUNES}+openledger/generous"))


def test_a_mix_is_audited_only_if_all_of_it_can_be(market: Platform, desk: Desk) -> None:
    audited = "UPDATE releases SET card = CAST('{\"is_audited\":true}' AS BLOB)"
    change(market, f"{audited} WHERE number = 1")
    with pytest.raises(NotAllowedError, match="openledger/other@1 has no half-data adapters"):
        answer.start(desk, ask(market, is_audited=True))
    change(market, audited)
    made = answer.start(desk, ask(market, is_audited=True))
    list(made)

    assert signed(market, made.receipt_id).body.attribution == "audited"


def test_a_payer_who_may_call_each_member_may_call_the_mix(market: Platform, desk: Desk) -> None:
    """Its price is under a ceiling that theirs are under; and a cap counts it like any call."""
    cap = fee(DEAREST, len(desk.tokenizer.encode("X:1\n")), 20)
    capped = ask(market, api_key="sk-ol-1", key_total_cap=Wei(cap))
    text_of(desk, capped)

    with pytest.raises(InsufficientBalanceError):
        answer.start(desk, capped)


def test_a_mix_is_charged_once_under_one_key(market: Platform, desk: Desk) -> None:
    first = answer.start(desk, ask(market, idempotency_key="once"))
    text = "".join(first)
    deprecate_other(market)
    again = answer.start(desk, ask(market, idempotency_key="once"))

    assert "".join(again) == text
    assert (again.result(), again.mix, again.terms) == (first.result(), first.mix, first.terms)
    assert {one.answers for one in desk.meter.answered().values()} == {1}
    with pytest.raises(ConflictError):
        answer.start(desk, ask(market, f"mix:{TUNES}*0.6+{OTHER}*0.4", idempotency_key="once"))


def test_a_receipt_of_a_mix_says_what_each_member_earned_and_holds_to_level_1(
    market: Platform, desk: Desk
) -> None:
    made = answer.start(desk, ask(market))
    list(made)
    pending = receipts.show(market, ShowReceipt(made.receipt_id))
    fair.attribution(market, fair.PairScorer(fair.contributors(market))).run([made.receipt_id])
    market.settle.run()
    shown = receipts.show(market, ShowReceipt(made.receipt_id))

    assert pending.model == shown.model == BOTH
    assert [one.part_ppb for one in pending.members] == [None, None]
    assert [one.part_ppb for one in shown.members] == [750_000_000, 250_000_000]
    assert [one.added_micronats for one in shown.members] == [600_000, 200_000]
    assert sum(part.amount for part in shown.parts) == shown.fee
    assert [part.role for part in shown.parts].count(BUILDER) == 1  # of both it is the operator
    assert verify_bundle(shown.bundle, None).fee == shown.fee


CHEAP = Price(Wei(1), Wei(1), Wei(1))
FORGED: tuple[tuple[Terms | msgspec.UnsetType, str], ...] = (
    (msgspec.UNSET, "each member of a mix states its terms"),
    (Terms(1, CHEAP, SplitPolicy()), "do not follow from its members'"),
    (Terms(1, fair.PRICE, SplitPolicy(builder=1_000, data=6_000)), "in different ways"),
)


def test_a_gateway_cannot_sign_terms_that_do_not_follow_from_the_members(
    market: Platform, desk: Desk
) -> None:
    made = answer.start(desk, ask(market))
    list(made)
    call = signed(market, made.receipt_id)
    first, second = call.body.mix
    for terms, message in FORGED:
        mix = (msgspec.structs.replace(first, terms=terms), second)
        body = msgspec.structs.replace(call.body, mix=mix)
        struct = msgspec.structs.replace(call.call, body=digest_of(body))
        forged = sign_call(market.gateway.domain, struct, body, market.gateway.private_key)

        with pytest.raises(VerificationError, match=message):
            verify_call(market.gateway.domain, forged)
