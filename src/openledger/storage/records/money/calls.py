"""Call receipts and attribution statements: append-only, gapless, each final once.

A receipt is appended in the transaction that charges its hold, at the tip of the gateway's chain:
nothing can be charged without a receipt, and no number is ever skipped or used twice.
"""

from collections.abc import Iterator

import msgspec
from sqlalchemy import Select, exists, select

from openledger.core.errors import ConflictError
from openledger.core.types import Account, Digest, ReceiptId, Wei
from openledger.storage.database import Transaction
from openledger.storage.records.money.balances import (
    FIRST_SEQUENCE,
    HoldState,
    close_hold,
    find_hold,
    key_total,
    payer_book,
)
from openledger.storage.records.rows import (
    first,
    held,
    insert_new,
    insert_once,
    one,
    stream,
    values_of,
)
from openledger.storage.tables import call_receipts, gateway_books, payer_books, statements

NO_PREVIOUS = Digest("0" * 64)
_STATEMENTS_AT_ONCE = 32  # one holds the scores of all of a release's clusters


class GatewayBook(msgspec.Struct, frozen=True):
    """Where a gateway's receipt chain stands."""

    gateway: Account
    next_sequence: int
    total: Wei  # of all fees ever
    previous: Digest  # of its last call receipt


class Tip(msgspec.Struct, frozen=True):
    """What the next receipt must continue; both totals are without its fee."""

    gateway_sequence: int
    payer_sequence: int
    gateway_total: Wei
    payer_total: Wei
    previous: Digest


class NewCall(msgspec.Struct, frozen=True):
    """A signed call receipt to append; its hold says payer, release and key."""

    id: ReceiptId
    gateway_sequence: int
    payer_sequence: int
    fee: Wei
    gateway_total: Wei  # this fee included
    payer_total: Wei  # this fee included
    previous: Digest
    digest: Digest  # EIP-712
    record: bytes  # canonical bytes: struct, body and signature
    payer_salt: bytes  # 32, opens the payer commitment
    private: bytes | None  # what the parties may open


class Call(NewCall, frozen=True):
    """A stored call receipt."""

    gateway: Account
    payer: Account
    release: str  # row id
    api_key: str | None
    key_total: Wei | None  # of this key's fees ever, this one included
    created_at: int


class Statement(msgspec.Struct, frozen=True):
    """A signed attribution statement."""

    receipt: ReceiptId
    digest: Digest  # EIP-712
    record: bytes  # canonical bytes: struct, body and signature
    created_at: int
    vectors: bytes | None = None  # query vectors, sealed to the payer


class Pair(msgspec.Struct, frozen=True):
    """A receipt: both halves."""

    call: Call
    statement: Statement


class Metered(msgspec.Struct, frozen=True):
    """What tells who answered a call and who earned by it."""

    fee: Wei
    record: bytes  # of the call, as in `NewCall`
    stated: bytes | None  # the statement's; None: the call is not attributed yet


def tip(transaction: Transaction, gateway: Account, payer: Account) -> Tip:
    """What the next receipt must continue; held until this transaction ends."""
    # Always the gateway first: two appends that lock in one order cannot wait for each other.
    book = gateway_book(transaction, gateway)
    own = payer_book(transaction, gateway, payer)
    return Tip(book.next_sequence, own.next_sequence, book.total, own.total, book.previous)


def gateway_book(transaction: Transaction, gateway: Account) -> GatewayBook:
    """The gateway's book, held for this transaction; a new one starts at 1 and 0 wei."""
    query = select(gateway_books).where(gateway_books.c.gateway == gateway)
    fresh = GatewayBook(gateway, FIRST_SEQUENCE, Wei(0), NO_PREVIOUS)
    if first(transaction, query, GatewayBook) is None:
        if not transaction.may_write:
            return fresh
        insert_new(transaction, gateway_books, [values_of(fresh)])
    return one(transaction, held(transaction, query), GatewayBook, "book")


def append(transaction: Transaction, new: NewCall, now: int) -> Call:
    """Charge the open hold of this receipt id and append the receipt, or find the same one.

    Raises:
        ConflictError: it does not continue the chain, its hold is missing, closed or smaller, or
            another receipt has its id.
    """
    stored = find(transaction, new.id)
    if stored is not None:
        if stored.record != new.record:
            raise ConflictError(f"the receipt {new.id} is final; it cannot be written again")
        return stored
    hold = find_hold(transaction, new.id)
    if hold is None or new.fee > hold.amount:
        raise ConflictError(f"no hold covers the fee of {new.fee} wei of the receipt {new.id}")
    at = tip(transaction, hold.gateway, hold.payer)
    _check_continues(new, at)
    if not close_hold(transaction, new.id, HoldState.CHARGED, now):
        raise ConflictError(f"the hold of the receipt {new.id} is closed")
    spent = None
    if hold.api_key is not None:
        spent = Wei(key_total(transaction, hold.gateway, hold.api_key) + new.fee)
    row = values_of(new) | {
        "gateway": hold.gateway,
        "payer": hold.payer,
        "release": hold.release,
        "api_key": hold.api_key,
        "key_total": spent,
        "created_at": now,
    }
    insert_once(transaction, call_receipts, row)
    _move_books(transaction, hold.gateway, hold.payer, new)
    return get(transaction, new.id)


def find(transaction: Transaction, receipt: ReceiptId) -> Call | None:
    """The call receipt of this id."""
    return first(transaction, select(call_receipts).where(call_receipts.c.id == receipt), Call)


def get(transaction: Transaction, receipt: ReceiptId) -> Call:
    """The call receipt of this id.

    Raises:
        NotFoundError: none.
    """
    query = select(call_receipts).where(call_receipts.c.id == receipt)
    return one(transaction, query, Call, f"receipt {receipt}")


def in_order(
    transaction: Transaction, gateway: Account, first_sequence: int = FIRST_SEQUENCE
) -> Iterator[Call]:
    """A gateway's call receipts from a sequence on."""
    return stream(transaction, _from(gateway, first_sequence), Call)


def of_payer(transaction: Transaction, payer: Account, limit: int = 100) -> list[Call]:
    """A payer's latest call receipts, the newest first."""
    query = select(call_receipts).where(call_receipts.c.payer == payer)
    newest = call_receipts.c.created_at.desc(), call_receipts.c.gateway_sequence.desc()
    return list(stream(transaction, query.order_by(*newest).limit(limit), Call))


def pending(transaction: Transaction, gateway: Account, limit: int = 100) -> list[Call]:
    """Call receipts that have no statement yet, in order."""
    query = _from(gateway, FIRST_SEQUENCE).outerjoin(
        statements, statements.c.receipt == call_receipts.c.id
    )
    return list(stream(transaction, query.where(statements.c.receipt.is_(None)).limit(limit), Call))


def state(transaction: Transaction, row: Statement) -> bool:
    """Store the statement of a receipt, once; whether it is new.

    Raises:
        ConflictError: the receipt is unknown, or has another statement.
    """
    return insert_once(transaction, statements, values_of(row), {"created_at", "vectors"})


def hand_over(transaction: Transaction, receipt: ReceiptId, private: bytes) -> None:
    """Put what only the payer can open in the place of what this home could.

    It belongs into the transaction that stores the statement: nothing needs the text after that.
    """
    change = call_receipts.update().where(
        call_receipts.c.id == receipt, call_receipts.c.private.is_not(None)
    )
    transaction.connection.execute(change.values(private=private))


def statement(transaction: Transaction, receipt: ReceiptId) -> Statement | None:
    """The statement of a receipt, if it is made."""
    query = select(statements).where(statements.c.receipt == receipt)
    return first(transaction, query, Statement)


def pairs(
    transaction: Transaction, gateway: Account, first_sequence: int, limit: int
) -> Iterator[Pair]:
    """Whole receipts from a sequence on, up to the first gap: what an epoch can hold."""
    query = (
        _from(gateway, first_sequence)
        .add_columns(
            statements.c.digest.label("stated_digest"),
            statements.c.record.label("stated_record"),
            statements.c.created_at.label("stated_at"),
        )
        .join(statements, statements.c.receipt == call_receipts.c.id)
    )
    joined = stream(transaction, query.limit(limit), _Joined)
    for expected, row in enumerate(joined, first_sequence):
        if row.gateway_sequence != expected:
            return
        call = Call(**{name: getattr(row, name) for name in Call.__struct_fields__})
        said = Statement(row.id, row.stated_digest, row.stated_record, row.stated_at)
        yield Pair(call, said)


def metered(transaction: Transaction, gateway: Account) -> Iterator[Metered]:
    """All of a gateway's calls, in order, with their statements where they are made."""
    rows = call_receipts.c
    query = (
        select(rows.fee, rows.record, statements.c.record.label("stated"))
        .outerjoin(statements, statements.c.receipt == rows.id)
        .where(rows.gateway == gateway)
        .order_by(rows.gateway_sequence)
    )
    return stream(transaction, query, Metered, _STATEMENTS_AT_ONCE)


def digests(
    transaction: Transaction, gateway: Account, first_sequence: int, count: int
) -> list[tuple[Digest, Digest]]:
    """The digests of call and statement, of so many whole receipts from a sequence on."""
    rows = call_receipts.c
    query = (
        select(rows.digest, statements.c.digest)
        .join(statements, statements.c.receipt == rows.id)
        .where(rows.gateway == gateway, rows.gateway_sequence >= first_sequence)
        .order_by(rows.gateway_sequence)
        .limit(count)
    )
    found = transaction.connection.execute(query)
    return [(Digest(call), Digest(statement)) for call, statement in found]


def erase_private(transaction: Transaction, before: int) -> int:
    """Forget what calls before a time kept for disputes; how many did.

    A call without its statement keeps it: nobody could be paid for it any more.
    """
    rows = call_receipts.c
    is_stated = exists().where(statements.c.receipt == rows.id)
    change = call_receipts.update().where(
        rows.created_at < before, rows.private.is_not(None), is_stated
    )
    old = select(rows.id).where(rows.created_at < before)
    vectors = statements.update().where(
        statements.c.receipt.in_(old), statements.c.vectors.is_not(None)
    )
    transaction.connection.execute(vectors.values(vectors=None))
    return transaction.connection.execute(change.values(private=None)).rowcount


class _Joined(Call, frozen=True):
    stated_digest: Digest
    stated_record: bytes
    stated_at: int


def _from(gateway: Account, sequence: int) -> Select[tuple[object, ...]]:
    rows = call_receipts.c
    query = select(call_receipts).where(rows.gateway == gateway, rows.gateway_sequence >= sequence)
    return query.order_by(rows.gateway_sequence)


def _check_continues(new: NewCall, at: Tip) -> None:
    continued = Tip(
        new.gateway_sequence,
        new.payer_sequence,
        Wei(new.gateway_total - new.fee),
        Wei(new.payer_total - new.fee),
        new.previous,
    )
    if continued != at:
        raise ConflictError(f"the receipt {new.id} does not continue the chain at {at}")


def _move_books(transaction: Transaction, gateway: Account, payer: Account, new: NewCall) -> None:
    transaction.connection.execute(
        gateway_books.update()
        .where(gateway_books.c.gateway == gateway)
        .values(
            next_sequence=new.gateway_sequence + 1, total=new.gateway_total, previous=new.digest
        )
    )
    transaction.connection.execute(
        payer_books.update()
        .where(payer_books.c.gateway == gateway, payer_books.c.payer == payer)
        .values(next_sequence=new.payer_sequence + 1, total=new.payer_total)
    )
