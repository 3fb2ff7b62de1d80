"""Idempotency keys of requests that move money: same key and request, same response.

The first request reserves its key for the time of a lease and stores the response when done. A
request whose process died frees its key when the lease ends.
"""

import msgspec
from sqlalchemy import select

from openledger.core.errors import ConflictError, UnavailableError
from openledger.core.types import Digest
from openledger.storage.database import Transaction
from openledger.storage.records.rows import held, insert_new, one, values_of
from openledger.storage.tables import idempotency_keys

_FORGOTTEN = b""  # stands for a response that is erased: its request must not run again


class Request(msgspec.Struct, frozen=True):
    """A request under its key."""

    scope: str  # who asks for what: account and route
    key: str  # at most 128 characters, chosen by the caller
    request: Digest  # of the request's body


class _Entry(Request, frozen=True):
    response: bytes | None
    lease_until: int
    created_at: int


def reserve(transaction: Transaction, request: Request, now: int, lease: int) -> bytes | None:
    """The stored response, or None: then the caller must do the work and `answer`.

    Raises:
        ConflictError: the key was used for another request, or so long ago that the response is
            forgotten.
        UnavailableError: the first request still runs.
    """
    fresh = _Entry(request.scope, request.key, request.request, None, 0, now)
    insert_new(transaction, idempotency_keys, [values_of(fresh)])
    found = _find(transaction, request)
    if found.request != request.request:
        raise ConflictError(f"the key {request.key!r} was used for another request; take a new one")
    if found.response == _FORGOTTEN:
        raise ConflictError(
            f"the key {request.key!r} was answered long ago and the answer is erased; "
            "take a new one"
        )
    if found.response is not None:
        return found.response
    if found.lease_until > now:
        raise UnavailableError(f"the first request with the key {request.key!r} still runs; wait")
    _store(transaction, request, {"lease_until": now + lease})
    return None


def answer(transaction: Transaction, request: Request, response: bytes) -> None:
    """Store the response, in the transaction that moves the money.

    Raises:
        ConflictError: another response is stored.
    """
    found = _find(transaction, request)
    if found.response not in (None, response):
        raise ConflictError(f"the key {request.key!r} has another response already")
    _store(transaction, request, {"response": response})


def give_up(transaction: Transaction, request: Request) -> None:
    """Free the key of a request that failed without an effect."""
    _store(transaction, request, {"lease_until": 0})


def give_up_all(transaction: Transaction) -> None:
    """Free every key without a response: for a start at which nothing can be under way."""
    rows = idempotency_keys
    change = rows.update().where(rows.c.response.is_(None)).values(lease_until=0)
    transaction.connection.execute(change)


def erase(transaction: Transaction, before: int) -> int:
    """Forget the responses to requests before a time, but not that they were; how many."""
    rows = idempotency_keys
    change = rows.update().where(
        rows.c.created_at < before, rows.c.response.is_not(None), rows.c.response != _FORGOTTEN
    )
    return transaction.connection.execute(change.values(response=_FORGOTTEN)).rowcount


def _find(transaction: Transaction, request: Request) -> _Entry:
    rows = idempotency_keys
    query = select(rows).where(rows.c.scope == request.scope, rows.c.key == request.key)
    return one(transaction, held(transaction, query), _Entry, f"idempotency key {request.key!r}")


def _store(transaction: Transaction, request: Request, values: dict[str, object]) -> None:
    rows = idempotency_keys
    change = rows.update().where(rows.c.scope == request.scope, rows.c.key == request.key)
    transaction.connection.execute(change.values(values))
