import msgspec
import pytest

from openledger.core.errors import ConflictError, NotFoundError, UnavailableError
from openledger.storage.database import Database
from openledger.storage.records.money import idempotency
from openledger.storage.records.money.idempotency import Request
from tests.storage.rows import digest_of

REQUEST = Request("anna /v1/deposits", "key-1", digest_of(1))


def test_the_same_request_gets_the_same_response(database: Database) -> None:
    with database.transaction() as transaction:
        assert idempotency.reserve(transaction, REQUEST, now=1, lease=100) is None
        idempotency.answer(transaction, REQUEST, b"done")
        idempotency.answer(transaction, REQUEST, b"done")

        assert idempotency.reserve(transaction, REQUEST, now=2, lease=100) == b"done"
        with pytest.raises(ConflictError, match="another response"):
            idempotency.answer(transaction, REQUEST, b"else")


def test_a_key_is_good_for_one_request(database: Database) -> None:
    other = msgspec.structs.replace(REQUEST, request=digest_of(2))
    elsewhere = msgspec.structs.replace(other, scope="berta /v1/deposits")
    with database.transaction() as transaction:
        idempotency.reserve(transaction, REQUEST, now=1, lease=100)

        with pytest.raises(ConflictError, match="take a new one"):
            idempotency.reserve(transaction, other, now=2, lease=100)
        assert idempotency.reserve(transaction, elsewhere, now=2, lease=100) is None


def test_a_second_request_waits_for_the_first(database: Database) -> None:
    with database.transaction() as transaction:
        idempotency.reserve(transaction, REQUEST, now=1, lease=100)

        with pytest.raises(UnavailableError, match="still runs"):
            idempotency.reserve(transaction, REQUEST, now=100, lease=100)
        assert idempotency.reserve(transaction, REQUEST, now=101, lease=100) is None


def test_a_request_that_failed_may_be_sent_again_at_once(database: Database) -> None:
    with database.transaction() as transaction:
        idempotency.reserve(transaction, REQUEST, now=1, lease=100)
        idempotency.give_up(transaction, REQUEST)

        assert idempotency.reserve(transaction, REQUEST, now=2, lease=100) is None


def test_a_response_needs_its_reservation(database: Database) -> None:
    with database.transaction() as transaction, pytest.raises(NotFoundError):
        idempotency.answer(transaction, REQUEST, b"done")


def test_an_erased_response_keeps_its_request_from_running_again(database: Database) -> None:
    with database.transaction() as transaction:
        idempotency.reserve(transaction, REQUEST, now=1, lease=100)
        assert idempotency.erase(transaction, before=10) == 0
        idempotency.answer(transaction, REQUEST, b"done")

        assert idempotency.erase(transaction, before=1) == 0
        assert idempotency.erase(transaction, before=10) == 1
        assert idempotency.erase(transaction, before=10) == 0
        with pytest.raises(ConflictError, match="answered long ago"):
            idempotency.reserve(transaction, REQUEST, now=500, lease=100)
