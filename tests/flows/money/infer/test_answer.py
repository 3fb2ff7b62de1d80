"""The paid call: what is held, what is paid, and every way in which it is refused."""

import msgspec
import pytest

from openledger.core.encoding import decode, encode
from openledger.core.errors import (
    EngineFaultError,
    InsufficientBalanceError,
    InvalidInputError,
    NotAllowedError,
    NotFoundError,
    StorageFullError,
    UnavailableError,
)
from openledger.core.types import ReceiptId, Wei
from openledger.flows.money.infer import answer
from openledger.flows.money.infer.request import CallRequest, CallResult, Decoding, StoredAnswer
from openledger.lm.tokenizer import ChatMessage, Tokenizer
from openledger.settlement.receipt import Private, SignedCall, SignedStatement, verify_statement
from openledger.storage.records.data.accounts import AccountKind
from openledger.storage.records.model import releases
from openledger.storage.records.money import balances, calls
from openledger.wiring.platform import Platform, now_us
from tests import market as fair
from tests.fakes import FakeEngine


def position(market: Platform) -> balances.Position:
    payer = fair.payer(market).address
    with market.database.transaction() as transaction:
        return balances.position(transaction, market.gateway.account, payer)


def ask(market: Platform, **changes: object) -> CallRequest:
    request = CallRequest(fair.payer(market).address, fair.MODEL, "X:1\n", max_tokens=20)
    return msgspec.structs.replace(request, **changes)


def test_a_call_holds_then_pays_its_fee(market: Platform, tokenizer: Tokenizer) -> None:
    desk = fair.desk(market, tokenizer)
    made = answer.start(desk, ask(market))
    held = position(market).held
    text = "".join(made)

    assert text == "X:1 reel"
    assert position(market).held == 0
    assert 0 < made.result().fee <= held
    assert position(market).fees == made.result().fee


def test_a_result_is_there_only_at_the_end(market: Platform, tokenizer: Tokenizer) -> None:
    made = answer.start(fair.desk(market, tokenizer), ask(market))

    with pytest.raises(UnavailableError, match="not ended yet"):
        made.result()
    made.cancel()
    assert made.cancel() == made.cancel()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": "openledger/tiny-tunse"}, NotFoundError, "openledger/tiny-tunes"),
        ({"model": "no name"}, InvalidInputError, "name"),
        ({"max_tokens": 0}, InvalidInputError, "max_tokens|tokens"),
        ({"max_tokens": -3}, InvalidInputError, "max_tokens|tokens"),
        ({"prompt": "X" * 5_000}, InvalidInputError, "context|prompt|tokens"),
        ({"max_cost": Wei(1)}, InsufficientBalanceError, "max_cost"),
        ({"api_key": "sk-ol-1", "key_daily_cap": Wei(1)}, InsufficientBalanceError, "cap|day"),
        ({"api_key": "sk-ol-1", "key_total_cap": Wei(1)}, InsufficientBalanceError, "voucher|cap"),
        ({"decoding": Decoding(temperature_milli=9_000)}, InvalidInputError, "temperature"),
    ],
)
def test_a_wrong_call_is_refused_and_holds_nothing(
    market: Platform,
    tokenizer: Tokenizer,
    changes: dict[str, object],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        answer.start(fair.desk(market, tokenizer), ask(market, **changes))

    assert position(market).held == 0
    assert position(market).fees == 0


def test_an_account_without_deposit_is_told_to_deposit(
    market: Platform, tokenizer: Tokenizer
) -> None:
    poor = market.account("user/poor", AccountKind.USER, "poor")

    with pytest.raises(InsufficientBalanceError, match="deposit"):
        answer.start(fair.desk(market, tokenizer), ask(market, payer=poor.address))


def test_an_empty_balance_is_refused(market: Platform, tokenizer: Tokenizer) -> None:
    poor = market.account("user/poor", AccountKind.USER, "poor")
    market.fund.faucet(poor.address, Wei(10), "1")
    market.fund.deposit(poor, Wei(1), "1")

    with pytest.raises(InsufficientBalanceError):
        answer.start(fair.desk(market, tokenizer), ask(market, payer=poor.address))


def test_a_daily_cap_counts_what_the_key_spent_today(
    market: Platform, tokenizer: Tokenizer
) -> None:
    desk = fair.desk(market, tokenizer)
    probe = answer.start(desk, ask(market))
    cap = position(market).held
    probe.cancel()
    capped = ask(market, api_key="sk-ol-1", key_daily_cap=Wei(cap), key_total_cap=Wei(cap))
    first = answer.start(desk, capped)
    list(first)

    with pytest.raises(InsufficientBalanceError):
        answer.start(desk, capped)
    other = answer.start(desk, msgspec.structs.replace(capped, api_key="sk-ol-2"))
    other.cancel()


def test_a_deprecated_release_is_refused(market: Platform, tokenizer: Tokenizer) -> None:
    desk = fair.desk(market, tokenizer)
    with market.database.read() as transaction:
        release = releases.by_number(transaction, 1)
    assert release is not None
    market.publish.deprecate(release, fair.operator(market))

    with pytest.raises(NotAllowedError, match="deprecated"):
        answer.start(desk, ask(market, model="openledger/tiny-tunes@1"))
    with pytest.raises(NotFoundError):
        answer.start(desk, ask(market))


def test_a_release_on_its_way_to_the_chain_is_not_served(
    market: Platform, tokenizer: Tokenizer
) -> None:
    desk = fair.desk(market, tokenizer)
    with market.database.transaction() as transaction:
        transaction.connection.exec_driver_sql("UPDATE releases SET number = NULL")

    with pytest.raises(NotFoundError, match="still being published"):
        answer.start(desk, ask(market, model="openledger/tiny-tunes@1"))


def test_an_engine_that_is_full_holds_nothing(market: Platform, tokenizer: Tokenizer) -> None:
    desk = fair.desk(market, tokenizer, FakeEngine(256, tokenizer.size, capacity=0))

    with pytest.raises(UnavailableError, match="full"):
        answer.start(desk, ask(market, idempotency_key="once"))
    assert position(market).held == 0
    answer.start(fair.desk(market, tokenizer), ask(market, idempotency_key="once")).cancel()


def test_a_broken_engine_costs_nothing_and_leaves_a_receipt(
    market: Platform, tokenizer: Tokenizer
) -> None:
    engine = FakeEngine(256, tokenizer.size, script=tokenizer.encode("X:1 reel"))
    engine.breaks_at = 2
    made = answer.start(fair.desk(market, tokenizer, engine), ask(market, is_streamed=True))

    with pytest.raises(EngineFaultError):
        list(made)
    with market.database.read() as transaction:
        call = calls.get(transaction, made.receipt_id)
    assert (call.fee, made.result().refund) == (0, "engine_fault")
    assert made._desk.meter.answered() == {}  # type: ignore[union-attr]  # of no replay
    assert position(market).held == 0


def test_a_dropped_stream_pays_for_what_was_handed_out(
    market: Platform, tokenizer: Tokenizer
) -> None:
    desk = fair.desk(market, tokenizer)
    whole = fair.call(desk, fair.payer(market).address, prompt="X:1\n")
    made = answer.start(desk, ask(market, is_streamed=True))
    pieces = iter(made)
    next(pieces)
    next(pieces)
    made.cancel(1)
    rest = list(pieces)
    dropped = answer.start(desk, ask(market))
    next(iter(dropped))
    dropped.cancel()

    assert rest == []
    assert 0 < made.result().output_tokens < whole.output_tokens
    assert 0 < made.result().fee < whole.fee
    assert (dropped.result().fee, dropped.result().refund) == (0, "not_delivered")
    [metered] = desk.meter.answered().values()
    assert metered.answers == 2
    assert metered.output_tokens == whole.output_tokens + made.result().output_tokens


def test_a_stop_word_ends_the_answer_and_is_left_out(
    market: Platform, tokenizer: Tokenizer
) -> None:
    desk = fair.desk(market, tokenizer)
    request = ask(market, decoding=Decoding(stop=(" re",)))
    made = answer.start(desk, request)

    assert "".join(made) == "X:1"
    assert made.result().finish == "stop"


def test_a_chat_is_put_into_the_models_own_form(market: Platform, tokenizer: Tokenizer) -> None:
    desk = fair.desk(market, tokenizer)
    made = answer.start(desk, ask(market, prompt=(ChatMessage("user", "A reel"),)))
    list(made)

    assert made.result().input_tokens > len(tokenizer.encode("A reel"))


def test_an_idempotency_key_charges_once(market: Platform, tokenizer: Tokenizer) -> None:
    desk = fair.desk(market, tokenizer)
    first = answer.start(desk, ask(market, idempotency_key="once"))
    text = "".join(first)
    again = answer.start(desk, ask(market, idempotency_key="once"))

    assert "".join(again) == text
    assert again.result() == again.cancel() == first.result()
    assert position(market).fees == first.result().fee


def test_calls_at_the_same_time_with_one_seed_draw_apart(
    market: Platform, tokenizer: Tokenizer
) -> None:
    desk = fair.desk(market, tokenizer)
    first, second = (answer.start(desk, ask(market, nonce="7")) for _ in range(2))
    list(second)
    third = answer.start(desk, ask(market, nonce="7"))
    list(first)
    list(third)
    alone = answer.start(desk, ask(market, nonce="7"))
    list(alone)
    begun = [first, second, third, alone]
    opened = [_opened(market, call.receipt_id) for call in begun]

    assert [nonce for nonce, _ in opened] == ["7|1|1", "7|2|1", "7|3|1", "7|4|1"]
    assert [sequence for _, sequence in opened] == [2, 1, 3, 4]
    assert len({_seed(call) for call in begun}) == 4


def _opened(market: Platform, receipt: ReceiptId) -> tuple[str, int]:
    """What was hashed into the seed of a call, and its payer's sequence."""
    with market.database.read() as transaction:
        call = calls.get(transaction, receipt)
    assert call.private is not None
    private = decode(market.sealer.unseal(receipt, call.private), Private)
    return private.nonce, call.payer_sequence


def _seed(call: answer.Inference | answer.Replay) -> bytes:
    assert isinstance(call, answer.Inference)
    return call._prepared.sampling.seed


def test_a_call_without_a_receipt_gives_its_place_back(
    market: Platform, tokenizer: Tokenizer
) -> None:
    full = fair.desk(market, tokenizer, FakeEngine(256, tokenizer.size, capacity=0))
    with pytest.raises(UnavailableError):
        answer.start(full, ask(market, nonce="7"))
    again = answer.start(fair.desk(market, tokenizer), ask(market, nonce="7"))
    list(again)

    assert _opened(market, again.receipt_id) == ("7|1|1", 1)


def test_who_hangs_up_on_an_answer_may_ask_again_under_the_same_key(
    market: Platform, tokenizer: Tokenizer
) -> None:
    desk = fair.desk(market, tokenizer)
    dropped = answer.start(desk, ask(market, idempotency_key="once"))
    next(iter(dropped))
    dropped.cancel()
    again = answer.start(desk, ask(market, idempotency_key="once"))

    assert "".join(again) == "X:1 reel"
    assert position(market).fees == again.result().fee > 0


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_call_whose_receipt_cannot_be_stored_costs_nothing(
    market: Platform, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, is_streamed: bool
) -> None:
    desk = fair.desk(market, tokenizer)
    wanted = ask(market, idempotency_key="once", is_streamed=is_streamed)
    made = answer.start(desk, wanted)
    with monkeypatch.context() as full:
        full.setattr(calls, "append", _no_room)
        with pytest.raises(StorageFullError):
            list(made)
        with pytest.raises(StorageFullError):
            made.cancel()
    assert position(market).held > 0

    assert made.cancel().refund == "gateway_fault"
    assert (position(market).held, position(market).fees) == (0, 0)
    again = answer.start(desk, wanted)
    assert "".join(again) == "X:1 reel"


def _no_room(*_: object) -> None:
    raise StorageFullError("the disk is full: free some space")


def test_an_empty_answer_is_replayed_as_nothing(market: Platform, tokenizer: Tokenizer) -> None:
    desk = fair.desk(market, tokenizer)
    wanted = ask(market, idempotency_key="empty", decoding=Decoding(stop=("X",)))
    first = answer.start(desk, wanted)
    assert "".join(first) == ""
    again = answer.start(desk, wanted)

    assert list(again) == []
    assert (again.receipt_id, again.mix, again.base, again.terms) == (
        first.receipt_id,
        first.mix,
        first.base,
        first.terms,
    )


def test_an_answer_that_an_older_version_stored_is_read_still() -> None:
    result = CallResult(ReceiptId("rcp_1"), "X:1", "stop", 3, 2, Wei(5), None)
    older = StoredAnswer(result, "row of the release")

    assert decode(encode(older), StoredAnswer).result == result
    assert b"release" not in encode(StoredAnswer(result))


def test_calls_of_a_dead_process_give_their_holds_back(
    market: Platform, tokenizer: Tokenizer
) -> None:
    answer.start(fair.desk(market, tokenizer), ask(market))
    now = now_us()

    assert answer.refund_orphans(market.database, now) == 1
    assert answer.refund_orphans(market.database, now) == 0
    assert position(market).held == 0


def test_an_audit_is_refused_before_any_money_is_held_where_nothing_can_audit(
    market: Platform, tokenizer: Tokenizer
) -> None:
    with pytest.raises(NotAllowedError, match="no half-data adapters"):
        answer.start(fair.desk(market, tokenizer), ask(market, is_audited=True))
    assert position(market).held == 0


def test_an_audited_call_says_so_in_both_halves_of_its_receipt(
    market: Platform, tokenizer: Tokenizer
) -> None:
    with market.database.transaction() as transaction:
        transaction.connection.exec_driver_sql(
            "UPDATE releases SET card = ?", (b'{"is_audited":true}',)
        )
    desk = fair.desk(market, tokenizer)
    plain = fair.call(desk, fair.payer(market).address)
    audited = fair.call(desk, fair.payer(market).address, is_audited=True)
    fair.attribute(market, [plain.receipt_id, audited.receipt_id])

    assert audited.fee == plain.fee
    for result, mode, losses in (
        (plain, msgspec.UNSET, msgspec.UNSET),
        (audited, "audited", (1_500_000,) * 16),
    ):
        with market.database.read() as transaction:
            call = decode(calls.get(transaction, result.receipt_id).record, SignedCall)
            row = calls.statement(transaction, result.receipt_id)
        assert row is not None
        statement = decode(row.record, SignedStatement)
        verify_statement(market.gateway.domain, call, statement)
        assert call.body.attribution == mode
        assert statement.body.members[0].segments[0].losses_micronats == losses
