"""The money identity as the database has it: every sum is made here, in Python, row by row.

deposits = spent + withdrawn + free, and spent = all fees = all parts. The chain's side of the
same identity is summed elsewhere; the two must agree.
"""

from typing import Any

import msgspec
from sqlalchemy import Select, Table, select

from openledger.core.errors import VerificationError
from openledger.core.identity import Totals
from openledger.core.types import Account, Digest, Wei
from openledger.storage.database import Transaction
from openledger.storage.records.money import calls, epochs
from openledger.storage.records.money.balances import EscrowBalance, Hold, HoldState, PayerBook
from openledger.storage.records.rows import stream
from openledger.storage.tables import escrow_balances, holds, payer_books


class Progress(msgspec.Struct, frozen=True):
    """How far the contracts are with this gateway's epochs; the books may be further."""

    settled: int  # epochs that Escrow took
    active: Digest | None  # the root in Payouts that can be claimed; None before the first


def totals(transaction: Transaction, gateway: Account, progress: Progress) -> Totals:
    """Sum up a gateway's rows, up to where the contracts are, and check them against its books.

    Raises:
        VerificationError: rows and books differ, numbers have a gap, or more is promised or
            claimed than was drawn or promised, or the contracts know an epoch that they do not.
    """
    receipts, fees = _fees(transaction, gateway)
    drawn, promised = _epochs(transaction, gateway, progress)
    claimed = sum(row.amount for row in epochs.claims_of(transaction, gateway))
    if drawn > fees or promised > drawn or claimed > promised:
        raise VerificationError(
            f"fees {fees}, drawn {drawn}, promised {promised}, claimed {claimed} wei do not agree"
        )
    deposits = list(stream(transaction, _rows(escrow_balances, gateway), EscrowBalance))
    opened = _rows(holds, gateway).where(holds.c.state == HoldState.OPEN.value)
    return Totals(
        receipts=receipts,
        deposited=Wei(sum(row.deposited for row in deposits)),
        spent=Wei(sum(row.spent for row in deposits)),
        withdrawn=Wei(sum(row.withdrawn for row in deposits)),
        held=Wei(sum(hold.amount for hold in stream(transaction, opened, Hold))),
        fees=Wei(fees),
        drawn=Wei(drawn),
        promised=Wei(promised),
        claimed=Wei(claimed),
    )


def _fees(transaction: Transaction, gateway: Account) -> tuple[int, int]:
    """How many receipts there are and what they cost; their running totals must agree."""
    count = fees = 0
    by_payer: dict[Account, int] = {}
    for call in calls.in_order(transaction, gateway):
        count += 1
        fees += call.fee
        by_payer[call.payer] = by_payer.get(call.payer, 0) + call.fee
        found = (call.gateway_sequence, call.gateway_total, call.payer_total)
        if found != (count, fees, by_payer[call.payer]):
            raise VerificationError(f"receipt {call.id} does not continue the sums before it")
    for book in stream(transaction, _rows(payer_books, gateway), PayerBook):
        if book.total != by_payer.get(book.payer, 0):
            raise VerificationError(f"the book of {book.payer} differs from its receipts")
    return count, fees


def _epochs(transaction: Transaction, gateway: Account, progress: Progress) -> tuple[int, int]:
    """What the settled epochs drew and what the active one promises."""
    drawn = 0
    promised: dict[Digest | None, int] = {None: 0}
    closed = epochs.list_all(transaction, gateway)
    for epoch in closed:
        drawn += epoch.drawn
        if epoch.promised != drawn:
            raise VerificationError(f"epoch {epoch.number} promises other than all that was drawn")
        promised[epoch.payouts_root] = epoch.promised
    if closed:
        listed = epochs.payouts_of(transaction, gateway, closed[-1].number)
        if sum(row.cumulative for row in listed) != closed[-1].promised:
            raise VerificationError("the newest epoch's payouts do not sum to what it promises")
    if progress.settled > len(closed) or progress.active not in promised:
        raise VerificationError("the contracts know an epoch of this gateway that its books do not")
    settled = sum(epoch.drawn for epoch in closed[: progress.settled])
    return settled, promised[progress.active]


def _rows(table: Table, gateway: Account) -> Select[Any]:
    return select(table).where(table.c.gateway == gateway)
