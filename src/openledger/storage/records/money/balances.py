"""What a payer has at a gateway: the escrow's figures, the voucher, and holds on both.

Free balance = deposited - withdrawn - exiting - all fees ever - open holds. What Escrow calls
spent is the settled part of the fees, so it is in there already. Invariant: a hold is opened only
within free balance and voucher, so neither is ever overdrawn.
"""

from enum import StrEnum
from typing import Any

import msgspec
from sqlalchemy import Select, select

from openledger.core.errors import ConflictError, InsufficientBalanceError
from openledger.core.types import Account, Digest, ReceiptId, Wei
from openledger.storage.database import Transaction
from openledger.storage.records.rows import every, first, held, insert_new, one, stream, values_of
from openledger.storage.tables import call_receipts, escrow_balances, holds, payer_books, vouchers

FIRST_SEQUENCE = 1


class EscrowBalance(msgspec.Struct, frozen=True):
    """A payer's balance at a gateway, as Escrow has it after `block`."""

    gateway: Account
    payer: Account
    deposited: Wei
    spent: Wei
    withdrawn: Wei
    exiting: Wei  # asked back, not yet withdrawn
    block: int


class VoucherRow(msgspec.Struct, frozen=True):
    """The payer's latest voucher for a gateway; its limit is over all calls ever."""

    gateway: Account
    payer: Account
    channel_id: Digest
    channel: bytes  # canonical
    limit: Wei
    signature: str
    updated_at: int


class PayerBook(msgspec.Struct, frozen=True):
    """Where a payer's receipts at a gateway stand."""

    gateway: Account
    payer: Account
    next_sequence: int
    total: Wei  # of all fees ever


class HoldState(StrEnum):
    """`CHARGED` has a receipt, `RELEASED` never had one."""

    OPEN = "open"
    CHARGED = "charged"
    RELEASED = "released"


class NewHold(msgspec.Struct, frozen=True):
    """An amount to reserve for a call; the id of its receipt-to-be names it."""

    receipt: ReceiptId
    gateway: Account
    payer: Account
    api_key: str | None  # its prefix
    release: str  # row id; of a mix its first member's
    amount: Wei
    expires_at: int  # when a hold whose process died may be released


class Hold(NewHold, frozen=True):
    """A stored hold."""

    state: HoldState
    opened_at: int
    closed_at: int | None


class Position(msgspec.Struct, frozen=True):
    """Everything that decides whether a payer can afford a call."""

    escrow: EscrowBalance
    voucher: VoucherRow | None
    fees: Wei  # of all calls ever
    held: Wei  # open holds

    @property
    def free(self) -> int:
        """Wei that no call has used or reserved; below 0 only when the escrow shrank."""
        taken = self.escrow.withdrawn + self.escrow.exiting + self.fees + self.held
        return self.escrow.deposited - taken

    @property
    def voucher_left(self) -> int:
        """Wei that the voucher still covers; 0 without one."""
        return 0 if self.voucher is None else self.voucher.limit - self.fees - self.held


def set_escrow(transaction: Transaction, balance: EscrowBalance) -> None:
    """Note what Escrow says; an older block than the stored one changes nothing."""
    insert_new(transaction, escrow_balances, [values_of(balance)])
    change = escrow_balances.update().where(
        escrow_balances.c.gateway == balance.gateway,
        escrow_balances.c.payer == balance.payer,
        escrow_balances.c.block <= balance.block,
    )
    transaction.connection.execute(change.values(values_of(balance)))


def set_voucher(transaction: Transaction, row: VoucherRow) -> VoucherRow:
    """Store a voucher that covers more than the latest one; an older one changes nothing.

    Raises:
        ConflictError: a new channel would not cover the fees and holds that the old one does.
    """
    now = position(transaction, row.gateway, row.payer)
    if now.voucher is not None and now.voucher.channel_id == row.channel_id:
        if row.limit <= now.voucher.limit:
            return now.voucher
    elif row.limit < now.fees + now.held:
        raise ConflictError(
            f"a limit of {row.limit} wei does not cover the {now.fees + now.held} wei of earlier "
            "calls at this gateway; sign a higher one"
        )
    insert_new(transaction, vouchers, [values_of(row)])
    change = vouchers.update().where(
        vouchers.c.gateway == row.gateway, vouchers.c.payer == row.payer
    )
    transaction.connection.execute(change.values(values_of(row)))
    return row


def position(transaction: Transaction, gateway: Account, payer: Account) -> Position:
    """A payer's position; no one else changes it before a writing transaction ends."""
    # Locking the book first puts every hold and receipt of this payer in one queue.
    book = payer_book(transaction, gateway, payer)
    zero = Wei(0)
    return Position(
        escrow=escrow(transaction, gateway, payer)
        or EscrowBalance(gateway, payer, zero, zero, zero, zero, 0),
        voucher=voucher(transaction, gateway, payer),
        fees=book.total,
        held=Wei(sum(hold.amount for hold in open_holds(transaction, gateway, payer))),
    )


def escrow(transaction: Transaction, gateway: Account, payer: Account) -> EscrowBalance | None:
    """What Escrow was last seen to say."""
    rows = escrow_balances
    query = select(rows).where(rows.c.gateway == gateway, rows.c.payer == payer)
    return first(transaction, query, EscrowBalance)


def payers(transaction: Transaction, gateway: Account) -> tuple[Account, ...]:
    """All whose money in Escrow for this gateway was ever looked at, in order."""
    rows = escrow_balances.c
    query = select(rows.payer).where(rows.gateway == gateway).order_by(rows.payer)
    return tuple(Account(payer) for payer in transaction.connection.execute(query).scalars())


def voucher(transaction: Transaction, gateway: Account, payer: Account) -> VoucherRow | None:
    """The payer's latest voucher."""
    query = select(vouchers).where(vouchers.c.gateway == gateway, vouchers.c.payer == payer)
    return first(transaction, query, VoucherRow)


def payer_book(transaction: Transaction, gateway: Account, payer: Account) -> PayerBook:
    """The payer's book, held for this transaction; a new one starts at sequence 1 and 0 wei."""
    fresh = PayerBook(gateway, payer, FIRST_SEQUENCE, Wei(0))
    query = select(payer_books).where(
        payer_books.c.gateway == gateway, payer_books.c.payer == payer
    )
    if first(transaction, query, PayerBook) is None:
        if not transaction.may_write:
            return fresh
        insert_new(transaction, payer_books, [values_of(fresh)])
    return one(transaction, held(transaction, query), PayerBook, "book")


def next_place(transaction: Transaction, gateway: Account, payer: Account) -> int:
    """Which of a payer's calls the next one is to begin, from 1: after its receipts and open holds.

    What it says is the `payer_sequence` that the call gets if none overtakes it. A call that ends
    without a receipt gives its place back, which may then be given twice (decision 14).
    """
    book = payer_book(transaction, gateway, payer)
    return book.next_sequence + len(open_holds(transaction, gateway, payer))


def open_hold(transaction: Transaction, new: NewHold, now: int) -> Hold:
    """Reserve an amount, or find the same hold.

    Raises:
        InsufficientBalanceError: free balance or voucher does not cover it.
        ConflictError: another call has this receipt id.
    """
    has = position(transaction, new.gateway, new.payer)
    found = find_hold(transaction, new.receipt)
    if found is not None:
        if values_of(found) | values_of(new) != values_of(found):
            raise ConflictError(f"another call has the receipt id {new.receipt}")
        return found
    for left, what in (
        (has.free, "balance; deposit more"),
        (has.voucher_left, "voucher; raise it"),
    ):
        if new.amount > left:
            raise InsufficientBalanceError(
                f"the call may cost {new.amount} wei, more than the {max(left, 0)} wei left of the "
                f"{what}"
            )
    row = values_of(new) | {"state": HoldState.OPEN.value, "opened_at": now}
    insert_new(transaction, holds, [row])
    return one(transaction, select(holds).where(holds.c.receipt == new.receipt), Hold, "hold")


def find_hold(transaction: Transaction, receipt: ReceiptId) -> Hold | None:
    """The hold of a receipt id."""
    return first(transaction, select(holds).where(holds.c.receipt == receipt), Hold)


def release_hold(transaction: Transaction, receipt: ReceiptId, now: int) -> bool:
    """Give an open hold back without a receipt; whether it was open."""
    return close_hold(transaction, receipt, HoldState.RELEASED, now)


def close_hold(transaction: Transaction, receipt: ReceiptId, state: HoldState, now: int) -> bool:
    """Close an open hold; whether it was open. A receipt closes its own: `calls.append`."""
    change = holds.update().where(holds.c.receipt == receipt, holds.c.state == HoldState.OPEN.value)
    done = transaction.connection.execute(change.values(state=state.value, closed_at=now))
    return bool(done.rowcount)


def release_expired(transaction: Transaction, now: int) -> list[Hold]:
    """Give back the holds of calls whose process died, and say which they were."""
    query = select(holds).where(holds.c.state == HoldState.OPEN.value, holds.c.expires_at <= now)
    expired = every(transaction, held(transaction, query.order_by(holds.c.receipt)), Hold)
    for hold in expired:
        release_hold(transaction, hold.receipt, now)
    return expired


def open_holds(transaction: Transaction, gateway: Account, payer: Account) -> list[Hold]:
    """A payer's open holds at a gateway."""
    query = select(holds).where(
        holds.c.gateway == gateway,
        holds.c.payer == payer,
        holds.c.state == HoldState.OPEN.value,
    )
    return every(transaction, query.order_by(holds.c.receipt), Hold)


def payer_spent(transaction: Transaction, gateway: Account, payer: Account, since: int) -> Wei:
    """A payer's fees from `since` on (microseconds), open holds included: for a daily cap."""
    has = position(transaction, gateway, payer)
    rows = call_receipts.c
    query = select(rows.payer_total).where(rows.gateway == gateway, rows.payer == payer)
    return Wei(has.fees - _total(transaction, query, before=since) + has.held)


def key_spent(transaction: Transaction, gateway: Account, api_key: str, since: int = 0) -> Wei:
    """The fees of an API key from `since` on, its open holds included: for its caps."""
    query = select(holds).where(
        holds.c.gateway == gateway,
        holds.c.api_key == api_key,
        holds.c.state == HoldState.OPEN.value,
    )
    held = sum(hold.amount for hold in stream(transaction, query, Hold))
    fees = key_total(transaction, gateway, api_key)
    return Wei(fees - key_total(transaction, gateway, api_key, before=since) + held)


def key_total(
    transaction: Transaction, gateway: Account, api_key: str, before: int | None = None
) -> Wei:
    """The fees of an API key ever, or before a time."""
    rows = call_receipts.c
    query = select(rows.key_total).where(rows.gateway == gateway, rows.api_key == api_key)
    return _total(transaction, query, before)


def _total(transaction: Transaction, query: Select[Any], before: int | None) -> Wei:
    """The running total in the last receipt of a query, so that nothing is summed."""
    if before is not None:
        query = query.where(call_receipts.c.created_at < before)
    last = query.order_by(call_receipts.c.gateway_sequence.desc()).limit(1)
    return Wei(transaction.connection.execute(last).scalar() or 0)
