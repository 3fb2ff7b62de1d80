"""The rows of the outbox: one transaction-to-be each, from its queueing to its end.

queued -> signed -> mined -> final, or failed. A row is `signed` from the moment its transaction is
stored, before any node has seen it. A reorganisation takes a mined row back to `signed`.
"""

import json
from collections.abc import Iterable, Sequence
from enum import StrEnum
from hashlib import sha256
from typing import Any

import msgspec
from sqlalchemy import func, select

from openledger.chain.contracts import Write
from openledger.core.errors import ConflictError, InvalidInputError, NotFoundError
from openledger.core.types import Account, Digest, Wei
from openledger.storage.database import Transaction
from openledger.storage.records.rows import every, first, insert_new
from openledger.storage.tables import outbox

_MOST_ROWS_READ = 256
_IDS_PER_QUERY = 500


class State(StrEnum):
    """Where a write stands."""

    QUEUED = "queued"
    SIGNED = "signed"
    MINED = "mined"
    FINAL = "final"
    FAILED = "failed"


OPEN = (State.QUEUED, State.SIGNED, State.MINED)


class Row(msgspec.Struct, frozen=True):
    """One write as it is stored; times are microseconds since 1970."""

    position: int
    op_id: Digest
    sender: Account
    signer: str
    acting: str | None
    contract: Account
    label: str
    calldata: bytes
    value: Wei
    state: State
    nonce: int | None
    raw_tx: bytes | None
    tx_hashes: bytes | None
    tx_hash: Digest | None
    block: int | None
    gas_used: int | None
    error: str | None
    sent_at: int | None
    updated_at: int

    def hashes(self) -> list[Digest]:
        """Of all transactions ever signed for it, which share one nonce; the newest first."""
        known: list[Digest] = json.loads(self.tx_hashes or b"[]")
        return known[::-1]


def op_id(*parts: str | int) -> Digest:
    """The name of an operation: the same parts are the same operation, for ever."""
    if not parts:
        raise InvalidInputError("an operation needs a name")
    return Digest(sha256(json.dumps(["op", *parts]).encode()).hexdigest())


def pack_hashes(hashes: Sequence[Digest]) -> bytes:
    """The newest last."""
    return json.dumps(list(hashes)).encode()


def insert(transaction: Transaction, op: Digest, sender: Account, write: Write, now: int) -> None:
    """Queue a write once.

    Raises:
        ConflictError: the same operation was queued with another content.
    """
    values = {
        "op_id": op,
        "sender": sender,
        "signer": write.sender,
        "acting": write.acting,
        "contract": write.contract,
        "label": write.what,
        "calldata": write.calldata,
        "value": write.value,
    }
    times = {"created_at": now, "updated_at": now}
    insert_new(
        transaction,
        outbox,
        [values | times | {"state": State.QUEUED.value, "fencing": 0, "attempt": 0}],
    )
    found = find(transaction, op)
    other = [name for name, value in values.items() if getattr(found, name) != value]
    if other:
        raise ConflictError(f"operation {op} ({write.what}) was queued with another {other[0]}")


def find(transaction: Transaction, op: Digest) -> Row:
    """One row.

    Raises:
        NotFoundError: no such operation was queued.
    """
    found = first(transaction, select(outbox).where(outbox.c.op_id == op), Row)
    if found is None:
        raise NotFoundError(f"no operation {op} was queued")
    return found


def is_known(transaction: Transaction, op: Digest) -> bool:
    """Whether that operation was ever queued."""
    return first(transaction, select(outbox).where(outbox.c.op_id == op), Row) is not None


def find_all(transaction: Transaction, ops: Sequence[Digest]) -> list[Row]:
    """Rows in the order of `ops`.

    Raises:
        NotFoundError: one was never queued.
    """
    found: dict[Digest, Row] = {}
    for start in range(0, len(ops), _IDS_PER_QUERY):
        query = select(outbox).where(outbox.c.op_id.in_(ops[start : start + _IDS_PER_QUERY]))
        found |= {row.op_id: row for row in every(transaction, query, Row)}
    for op in ops:
        if op not in found:
            raise NotFoundError(f"no operation {op} was queued")
    return [found[op] for op in ops]


def is_under_way(transaction: Transaction, op: Digest) -> bool:
    """Whether that operation was queued and did not fail."""
    row = first(transaction, select(outbox).where(outbox.c.op_id == op), Row)
    return row is not None and row.state is not State.FAILED


def replace(transaction: Transaction, op: Digest, write: Write, now: int) -> None:
    """Queue a failed row again, in its old place, with another content of the same kind.

    Raises:
        ConflictError: it did not fail.
    """
    requeue(transaction, op, now)
    content = {"contract": write.contract, "calldata": write.calldata, "value": write.value}
    update(transaction, find(transaction, op).position, content)


def requeue(transaction: Transaction, op: Digest, now: int) -> None:
    """Put a failed row back in its place in the queue, as if it were new.

    Its last transaction, if it had one, is in a final block, so it cannot be mined again.

    Raises:
        ConflictError: it did not fail.
    """
    row = find(transaction, op)
    if row.state is not State.FAILED:
        raise ConflictError(
            f"operation {op} is {row.state.value}; only a failed one is tried again"
        )
    nothing = ("nonce", "raw_tx", "tx_hashes", "tx_hash", "block", "gas_used", "error", "sent_at")
    values = {"state": State.QUEUED.value, "updated_at": now}
    update(transaction, row.position, values | dict.fromkeys(nothing))


def senders(transaction: Transaction) -> list[Account]:
    """Whose key has something to do."""
    states = [state.value for state in OPEN]
    query = select(outbox.c.sender).where(outbox.c.state.in_(states)).distinct()
    return sorted(Account(name) for name in transaction.connection.execute(query).scalars())


def open_rows(transaction: Transaction, sender: Account, states: Iterable[State]) -> list[Row]:
    """A sender's rows in these states, in the order they were queued."""
    names = [state.value for state in states]
    query = select(outbox).where(outbox.c.sender == sender, outbox.c.state.in_(names))
    return every(transaction, query.order_by(outbox.c.position).limit(_MOST_ROWS_READ), Row)


def next_nonce(transaction: Transaction, sender: Account) -> int:
    """One above every nonce this sender ever used; 0 when it used none."""
    query = select(func.max(outbox.c.nonce)).where(outbox.c.sender == sender)
    highest = transaction.connection.execute(query).scalar()
    return 0 if highest is None else int(highest) + 1


def update(transaction: Transaction, position: int, values: dict[str, Any]) -> None:
    """Change one row."""
    change = outbox.update().where(outbox.c.position == position).values(values)
    transaction.connection.execute(change)


def count_open(transaction: Transaction) -> int:
    """How many writes are not at their end."""
    states = [state.value for state in OPEN]
    query = select(func.count()).select_from(outbox).where(outbox.c.state.in_(states))
    return int(transaction.connection.execute(query).scalar_one())
