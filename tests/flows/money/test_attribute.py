import pytest

from openledger.core.encoding import decode
from openledger.core.errors import (
    ConflictError,
    NotAllowedError,
    NotFoundError,
    VerificationError,
)
from openledger.core.ids import receipt_id
from openledger.core.types import PARTS_PER_BILLION
from openledger.lm.tokenizer import Tokenizer
from openledger.settlement.receipt import Private, SignedCall, SignedStatement, verify_statement
from openledger.storage.private.envelope import open_envelope
from openledger.storage.records.money import calls
from openledger.web.operations import receipts
from openledger.web.operations.receipts import ShowReceipt
from openledger.wiring.platform import Platform, now_us
from tests import market as fair


def test_a_statement_says_who_made_the_answer_and_is_made_once(
    market: Platform, tokenizer: Tokenizer
) -> None:
    receipt = fair.call(fair.desk(market, tokenizer), fair.payer(market).address).receipt_id
    first = fair.attribute(market, [receipt])
    second = fair.attribute(market, [receipt])
    with market.database.read() as transaction:
        call = decode(calls.get(transaction, receipt).record, SignedCall)
        row = calls.statement(transaction, receipt)
    assert row is not None
    statement = decode(row.record, SignedStatement)
    verify_statement(market.gateway.domain, call, statement)
    made = statement.body.attribution

    assert (first.asked, second.asked) == (1, 0)
    assert sum(share.weight_ppb for share in made.shares) + made.nobody_ppb == PARTS_PER_BILLION
    assert made.nobody_ppb == PARTS_PER_BILLION // 5
    assert {share.account for share in made.shares} == set(fair.contributors(market)[:2])


def test_a_receipt_that_does_not_exist_cannot_be_attributed(market: Platform) -> None:
    with pytest.raises(NotFoundError):
        fair.attribute(market, [receipt_id(bytes(16))])


def test_a_call_whose_text_is_erased_cannot_be_attributed(
    market: Platform, tokenizer: Tokenizer
) -> None:
    receipt = fair.call(fair.desk(market, tokenizer), fair.payer(market).address).receipt_id
    with market.database.transaction() as transaction:
        transaction.connection.exec_driver_sql("UPDATE call_receipts SET private = NULL")

    with pytest.raises(VerificationError, match="erased"):
        fair.attribute(market, [receipt])


def test_once_it_is_attributed_only_the_payer_reads_the_text_of_a_call(
    market: Platform, tokenizer: Tokenizer
) -> None:
    receipt = fair.call(fair.desk(market, tokenizer), fair.payer(market).address).receipt_id

    def kept() -> bytes:
        with market.database.read() as transaction:
            private = calls.get(transaction, receipt).private
        assert private is not None
        return private

    before = decode(market.sealer.unseal(receipt, kept()), Private)
    fair.attribute(market, [receipt])
    fair.attribute(market, [receipt])
    key = market.keyring.private_key(fair.PAYER)

    assert before.prompt_ids()
    assert decode(open_envelope(key, receipt, kept()), Private) == before
    with pytest.raises(VerificationError):
        market.sealer.unseal(receipt, kept())
    with pytest.raises(VerificationError):
        open_envelope(market.keyring.private_key("operator"), receipt, kept())


def test_a_payer_of_elsewhere_is_not_opened_here(market: Platform, tokenizer: Tokenizer) -> None:
    (made,) = fair.paid_calls(market, tokenizer, 1)
    wanted = ShowReceipt(made.receipt_id, is_private=True)
    assert receipts.show(market, wanted).bundle
    with market.database.transaction() as transaction:
        transaction.connection.exec_driver_sql("DELETE FROM accounts WHERE label = 'user/dev'")

    with pytest.raises(NotAllowedError, match="only the key of"):
        receipts.show(market, wanted)
    with pytest.raises(NotAllowedError, match="only the key of"):
        receipts.show(market, ShowReceipt(made.receipt_id, rows=1))


def test_vectors_are_erased_with_the_text(market: Platform, tokenizer: Tokenizer) -> None:
    (made,) = fair.paid_calls(market, tokenizer, 1)
    with market.database.transaction() as transaction:
        said = calls.statement(transaction, made.receipt_id)
        assert said is not None
        assert said.vectors is not None
        calls.erase_private(transaction, now_us() + 1)

    with pytest.raises(ConflictError, match="query vectors of this call are erased"):
        receipts.show(market, ShowReceipt(made.receipt_id, rows=1))
    with pytest.raises(ConflictError, match="erased"):
        receipts.show(market, ShowReceipt(made.receipt_id, is_private=True))


def test_what_an_older_version_sealed_with_the_homes_key_is_opened_still(
    market: Platform, tokenizer: Tokenizer
) -> None:
    receipt = fair.call(fair.desk(market, tokenizer), fair.payer(market).address).receipt_id
    with market.database.read() as transaction:
        sealed = calls.get(transaction, receipt).private
    assert sealed is not None
    fair.attribute(market, [receipt])
    with market.database.transaction() as transaction:
        calls.hand_over(transaction, receipt, sealed)

    assert receipts.show(market, ShowReceipt(receipt, is_private=True)).bundle


def test_a_call_without_a_voucher_is_not_attributed_in_the_clear(
    market: Platform, tokenizer: Tokenizer
) -> None:
    receipt = fair.call(fair.desk(market, tokenizer), fair.payer(market).address).receipt_id
    with market.database.transaction() as transaction:
        transaction.connection.exec_driver_sql("DELETE FROM vouchers")

    with pytest.raises(VerificationError, match="voucher"):
        fair.attribute(market, [receipt])
