import pytest

from openledger.core.encoding import decode
from openledger.core.errors import NotFoundError, VerificationError
from openledger.core.ids import receipt_id
from openledger.core.types import PARTS_PER_BILLION
from openledger.lm.tokenizer import Tokenizer
from openledger.settlement.receipt import SignedCall, SignedStatement, verify_statement
from openledger.storage.records.money import calls
from openledger.wiring.platform import Platform
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
