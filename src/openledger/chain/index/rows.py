"""Blocks, events and cursors as they are stored."""

import json
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from sqlalchemy import delete, func, select

from openledger.chain.abi import Value
from openledger.chain.wire.answers import Block
from openledger.core.errors import VerificationError
from openledger.core.types import Account, Digest
from openledger.storage.database import Transaction
from openledger.storage.records.rows import every, first, insert_new
from openledger.storage.tables import chain_blocks, chain_cursors, chain_events

Kind = TypeVar("Kind")


class Cursor(msgspec.Struct, frozen=True):
    """A block up to which something is done."""

    number: int
    hash: Digest


class StoredEvent(msgspec.Struct, frozen=True):
    """One event of one of our contracts."""

    block_hash: Digest
    log_index: int
    number: int
    tx_hash: Digest
    contract: Account
    event: str
    args: bytes

    def fields(self) -> dict[str, Any]:
        """The event's fields by name: accounts and bytes32 as text, structs as lists."""
        found: dict[str, Any] = json.loads(self.args)
        return found

    def read(self, kind: type[Kind]) -> Kind:
        """The fields as a record of the same names.

        Raises:
            VerificationError: they are no `kind`.
        """
        try:
            return msgspec.convert(self.fields(), kind)
        except msgspec.ValidationError as error:
            raise VerificationError(f"{self.event} is no {kind.__name__}: {error}") from error


def pack(fields: dict[str, Value]) -> bytes:
    """JSON with integers of any size."""
    return json.dumps(fields, default=bytes.hex).encode()


def cursor(transaction: Transaction, name: str) -> Cursor | None:
    """How far `name` has come."""
    query = select(chain_cursors).where(chain_cursors.c.name == name)
    return first(transaction, query, Cursor)


def move(transaction: Transaction, name: str, to: Cursor, now: int) -> None:
    """Say how far `name` has come."""
    values = {"number": to.number, "hash": to.hash, "updated_at": now}
    change = chain_cursors.update().where(chain_cursors.c.name == name).values(values)
    if not transaction.connection.execute(change).rowcount:
        transaction.connection.execute(chain_cursors.insert().values(values | {"name": name}))


def highest(transaction: Transaction, names: Sequence[str]) -> int:
    """The farthest of some cursors; -1 when none has moved."""
    query = select(func.max(chain_cursors.c.number)).where(chain_cursors.c.name.in_(names))
    found = transaction.connection.execute(query).scalar()
    return -1 if found is None else int(found)


def put(transaction: Transaction, blocks: Sequence[Block], events: Sequence[StoredEvent]) -> None:
    """Store what a range of blocks brought; repeats change nothing."""
    headers = [
        {"number": b.number, "hash": b.hash, "parent": b.parent, "timestamp": b.timestamp}
        for b in blocks
    ]
    insert_new(transaction, chain_blocks, headers)
    insert_new(transaction, chain_events, [msgspec.structs.asdict(event) for event in events])


def undo(transaction: Transaction, above: int) -> None:
    """Forget everything above a block."""
    for table in (chain_events, chain_blocks):
        transaction.connection.execute(delete(table).where(table.c.number > above))


def prune(transaction: Transaction, below: int) -> None:
    """Forget headers that no reorganisation can reach; events stay."""
    transaction.connection.execute(delete(chain_blocks).where(chain_blocks.c.number < below))


def kept_blocks(transaction: Transaction) -> list[Cursor]:
    """The blocks whose hashes we know, the newest first."""
    query = select(chain_blocks).order_by(chain_blocks.c.number.desc())
    return every(transaction, query, Cursor)


def events(
    transaction: Transaction, contract: Account | None, name: str | None, first: int, last: int
) -> list[StoredEvent]:
    """Events of the blocks `first` to `last`, in the order they were written."""
    query = select(chain_events).where(chain_events.c.number.between(first, last))
    if contract is not None:
        query = query.where(chain_events.c.contract == contract)
    if name is not None:
        query = query.where(chain_events.c.event == name)
    query = query.order_by(chain_events.c.number, chain_events.c.log_index)
    return every(transaction, query, StoredEvent)
