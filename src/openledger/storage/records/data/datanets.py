"""Datanets: named by owner and slug, numbered by the chain."""

import msgspec
from sqlalchemy import Select, select

from openledger.core.errors import ConflictError, NotFoundError
from openledger.core.ids import did_you_mean
from openledger.core.types import Account
from openledger.storage.database import Transaction
from openledger.storage.records.rows import every, first, insert_new, row_id, values_of
from openledger.storage.tables import datanets


class NewDatanet(msgspec.Struct, frozen=True):
    """A Datanet to create; owner and slug name it."""

    owner: Account
    slug: str
    title: str
    rules: bytes  # canonical
    data_floor_bps: int
    withdrawal_days: int


class Datanet(NewDatanet, frozen=True):
    """A stored Datanet; `number` is its id on chain."""

    id: str
    number: int | None
    created_at: int


def create(transaction: Transaction, new: NewDatanet, now: int) -> Datanet:
    """Store a Datanet, or find the same one.

    Raises:
        ConflictError: the owner has another one under this slug.
    """
    row = values_of(new) | {"id": row_id(now), "created_at": now}
    insert_new(transaction, datanets, [row])
    stored = find(transaction, new.owner, new.slug)
    if values_of(stored) | values_of(new) != values_of(stored):
        raise ConflictError(f"there is another Datanet {new.slug!r} of this owner; choose a slug")
    return stored


def get(transaction: Transaction, datanet_id: str) -> Datanet:
    """The Datanet of this row id.

    Raises:
        NotFoundError: none.
    """
    return _one(transaction, select(datanets).where(datanets.c.id == datanet_id), datanet_id)


def find(transaction: Transaction, owner: Account, slug: str) -> Datanet:
    """An owner's Datanet.

    Raises:
        NotFoundError: none; the message holds the nearest slugs.
    """
    query = select(datanets).where(datanets.c.owner == owner, datanets.c.slug == slug)
    return _one(transaction, query, slug)


def by_slug(transaction: Transaction, slug: str) -> Datanet:
    """The Datanet of this slug, whoever owns it; of several, the oldest.

    Raises:
        NotFoundError: none; the message holds the nearest slugs.
    """
    query = select(datanets).where(datanets.c.slug == slug)
    return _one(transaction, query.order_by(datanets.c.created_at, datanets.c.id), slug)


def list_all(transaction: Transaction) -> list[Datanet]:
    """All Datanets, the oldest first."""
    query = select(datanets).order_by(datanets.c.created_at, datanets.c.id)
    return every(transaction, query, Datanet)


def set_number(transaction: Transaction, datanet_id: str, number: int) -> None:
    """Note the Datanet's id on chain.

    Raises:
        ConflictError: it has another one, or another Datanet has this one.
    """
    stored = get(transaction, datanet_id)
    if stored.number not in (None, number):
        raise ConflictError(f"the Datanet {stored.slug} is number {stored.number} on chain")
    change = datanets.update().where(datanets.c.id == datanet_id)
    transaction.connection.execute(change.values(number=number))


def _one(transaction: Transaction, query: Select[tuple[object, ...]], name: str) -> Datanet:
    found = first(transaction, query, Datanet)
    if found is None:
        known = transaction.connection.execute(select(datanets.c.slug)).scalars()
        raise NotFoundError(f"there is no Datanet {name!r}{did_you_mean(name, known)}")
    return found
