import pytest

from openledger.core.errors import ConflictError, UnavailableError
from openledger.storage import leases
from openledger.storage.database import Database


def test_a_lease_is_held_by_one(database: Database) -> None:
    with database.transaction() as transaction:
        held = leases.acquire(transaction, "sender", "first", now=100, duration=50)

        with pytest.raises(UnavailableError, match="first holds"):
            leases.acquire(transaction, "sender", "second", now=149, duration=50)
        leases.check(transaction, held)
    assert (held.fencing, held.expires_at) == (1, 150)


def test_an_expired_lease_goes_to_the_next_and_fences_the_first(database: Database) -> None:
    with database.transaction() as transaction:
        late = leases.acquire(transaction, "sender", "first", now=100, duration=50)
        taken = leases.acquire(transaction, "sender", "second", now=150, duration=50)

        assert taken.fencing == 2
        with pytest.raises(ConflictError, match="another holder"):
            leases.check(transaction, late)
        with pytest.raises(ConflictError, match="another holder"):
            leases.renew(transaction, late, now=151, duration=50)
        leases.release(transaction, late)
        leases.check(transaction, taken)


def test_an_owner_takes_its_own_lease_again(database: Database) -> None:
    with database.transaction() as transaction:
        leases.acquire(transaction, "sender", "first", now=100, duration=50)

        assert leases.acquire(transaction, "sender", "first", now=110, duration=50).fencing == 2


def test_a_renewed_lease_lasts_longer(database: Database) -> None:
    with database.transaction() as transaction:
        held = leases.acquire(transaction, "sender", "first", now=100, duration=50)
        renewed = leases.renew(transaction, held, now=140, duration=50)

        assert renewed.expires_at == 190
        with pytest.raises(UnavailableError):
            leases.acquire(transaction, "sender", "second", now=189, duration=50)


def test_a_released_lease_is_free_at_once(database: Database) -> None:
    with database.transaction() as transaction:
        held = leases.acquire(transaction, "sender", "first", now=100, duration=50)
        leases.release(transaction, held)

        assert leases.acquire(transaction, "sender", "second", now=101, duration=50).fencing == 2


def test_a_lease_that_nobody_took_cannot_be_checked(database: Database) -> None:
    with database.transaction() as transaction:
        made_up = leases.Lease("sender", "first", 1, 100)

        with pytest.raises(ConflictError):
            leases.check(transaction, made_up)
        leases.release(transaction, made_up)
