"""Leases: who may do a thing now, with a fencing token that makes a late holder harmless.

The token rises with every new holder. Whoever writes under a lease checks it in the same
transaction, so a holder that slept through its lease cannot write any more.
"""

import msgspec
from sqlalchemy import select

from openledger.core.errors import ConflictError, UnavailableError
from openledger.storage.database import Transaction
from openledger.storage.records.rows import first, held, insert_once
from openledger.storage.tables import leases


class Lease(msgspec.Struct, frozen=True):
    """The right to do what `name` says, until `expires_at` (microseconds)."""

    name: str
    owner: str
    fencing: int
    expires_at: int


def acquire(transaction: Transaction, name: str, owner: str, now: int, duration: int) -> Lease:
    """Take a lease that is free, expired or one's own.

    Args:
        transaction: where.
        name: what the lease is for.
        owner: who asks; unique per process and start.
        now: microseconds.
        duration: microseconds.

    Raises:
        UnavailableError: somebody else holds it.
    """
    found = _find(transaction, name)
    if found is None:
        lease = Lease(name, owner, 1, now + duration)
        insert_once(transaction, leases, msgspec.structs.asdict(lease))
        return lease
    if found.owner != owner and found.expires_at > now:
        raise UnavailableError(f"{found.owner} holds the lease {name!r}; try again later")
    lease = Lease(name, owner, found.fencing + 1, now + duration)
    _store(transaction, lease)
    return lease


def renew(transaction: Transaction, lease: Lease, now: int, duration: int) -> Lease:
    """Hold it for longer.

    Raises:
        ConflictError: somebody else took it since.
    """
    check(transaction, lease)
    renewed = msgspec.structs.replace(lease, expires_at=now + duration)
    _store(transaction, renewed)
    return renewed


def release(transaction: Transaction, lease: Lease) -> None:
    """Give it back at once; nothing happens when somebody else took it since."""
    found = _find(transaction, lease.name)
    if found is not None and found.fencing == lease.fencing:
        _store(transaction, msgspec.structs.replace(found, expires_at=0))


def check(transaction: Transaction, lease: Lease) -> None:
    """Check that nobody took it since, even if it ran out; call it beside the write it guards.

    Raises:
        ConflictError: somebody else took it.
    """
    found = _find(transaction, lease.name)
    if found is None or found.fencing != lease.fencing:
        raise ConflictError(f"the lease {lease.name!r} went to another holder")


def _find(transaction: Transaction, name: str) -> Lease | None:
    query = select(leases).where(leases.c.name == name)
    return first(transaction, held(transaction, query), Lease)


def _store(transaction: Transaction, lease: Lease) -> None:
    change = leases.update().where(leases.c.name == lease.name)
    transaction.connection.execute(change.values(msgspec.structs.asdict(lease)))
