import msgspec
import pytest

from openledger.core.errors import ConflictError, NotFoundError, UnauthenticatedError
from openledger.core.types import Account, Wei
from openledger.storage.database import Database
from openledger.storage.records.data import accounts
from openledger.storage.records.data.accounts import AccountKind, LocalAccount

ANNA = LocalAccount(Account("0x" + "a" * 40), "anna", AccountKind.USER, "Anna", 1)
AIRD = LocalAccount(Account("0x" + "b" * 40), "aird", AccountKind.ON_BEHALF, "James Aird", 2)
SECRET = "ol-1234567890-and-much-more"


def test_an_account_is_found_by_address_and_label(database: Database) -> None:
    with database.transaction() as transaction:
        assert accounts.add(transaction, ANNA)
        assert accounts.add(transaction, AIRD)
        assert not accounts.add(transaction, msgspec.structs.replace(ANNA, created_at=9))

        assert accounts.by_address(transaction, ANNA.address) == ANNA
        assert accounts.by_address(transaction, Account("0x" + "c" * 40)) is None
        assert accounts.by_label(transaction, "aird") == AIRD
        assert accounts.list_all(transaction) == [AIRD, ANNA]
        assert accounts.list_all(transaction, AccountKind.USER) == [ANNA]


def test_a_label_is_taken_once(database: Database) -> None:
    with database.transaction() as transaction:
        accounts.add(transaction, ANNA)
        with pytest.raises(ConflictError):
            accounts.add(transaction, msgspec.structs.replace(AIRD, label="anna"))


def test_an_unknown_label_brings_the_nearest_ones(database: Database) -> None:
    with database.transaction() as transaction:
        accounts.add(transaction, ANNA)
        with pytest.raises(NotFoundError, match="did you mean anna"):
            accounts.by_label(transaction, "ana")


def test_a_key_authenticates_its_account(database: Database) -> None:
    key = accounts.api_key(SECRET, ANNA.address, "laptop", now=5)
    capped = msgspec.structs.replace(key, total_cap=Wei(10**20), daily_cap=Wei(5), expires_at=100)
    with database.transaction() as transaction:
        accounts.add(transaction, ANNA)
        assert accounts.add_key(transaction, capped)
        assert not accounts.add_key(transaction, capped)

        assert accounts.authenticate(transaction, SECRET, now=99) == capped
        assert accounts.keys_of(transaction, ANNA.address) == [capped]
        stored = transaction.connection.exec_driver_sql("SELECT * FROM api_keys").all()
    assert SECRET not in str(stored)


def test_unknown_revoked_and_expired_keys_are_refused(database: Database) -> None:
    key = accounts.api_key(SECRET, ANNA.address, "laptop", now=5)
    with database.transaction() as transaction:
        accounts.add(transaction, ANNA)
        accounts.add_key(transaction, msgspec.structs.replace(key, expires_at=100))

        for wrong in ("", "ol-", SECRET + "x", SECRET[:12]):
            with pytest.raises(UnauthenticatedError, match="unknown"):
                accounts.authenticate(transaction, wrong, now=6)
        with pytest.raises(UnauthenticatedError, match="expired"):
            accounts.authenticate(transaction, SECRET, now=100)
        accounts.revoke(transaction, key.prefix, now=50)
        accounts.revoke(transaction, key.prefix, now=60)
        with pytest.raises(UnauthenticatedError, match="revoked"):
            accounts.authenticate(transaction, SECRET, now=50)
        assert accounts.keys_of(transaction, ANNA.address)[0].revoked_at == 50
        with pytest.raises(NotFoundError):
            accounts.revoke(transaction, "nobody", now=1)


def test_a_key_needs_an_account(database: Database) -> None:
    key = accounts.api_key(SECRET, ANNA.address, "laptop", now=5)
    with pytest.raises(ConflictError), database.transaction() as transaction:
        accounts.add_key(transaction, key)
