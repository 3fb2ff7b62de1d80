"""Epochs of a gateway, what they promise to whom, and what was claimed.

Epochs are numbered from 1 and follow each other without a gap, over receipts that all have their
statement. Payouts are cumulative: the latest epoch says all that an account ever earned.
"""

from collections.abc import Iterator, Sequence
from enum import StrEnum

import msgspec
from sqlalchemy import func, select

from openledger.core.errors import ConflictError
from openledger.core.types import Account, Digest, Wei
from openledger.storage.database import Transaction
from openledger.storage.records.money.balances import FIRST_SEQUENCE
from openledger.storage.records.money.calls import pairs
from openledger.storage.records.rows import (
    every,
    first,
    held,
    insert_new,
    insert_once,
    one,
    stream,
    values_of,
)
from openledger.storage.tables import claims, epochs, payouts

FIRST_EPOCH = 1


class EpochState(StrEnum):
    """How far an epoch has come, in this order."""

    CLOSED = "closed"  # computed and stored here
    SETTLED = "settled"  # drawn from Escrow
    PROPOSED = "proposed"  # its payouts stand in Payouts
    ACTIVE = "active"  # and can be claimed


_ORDER = tuple(EpochState)


class NewEpoch(msgspec.Struct, frozen=True):
    """An epoch to close."""

    gateway: Account
    first: int  # gateway_sequence of its first receipt
    size: int  # receipts
    root: Digest
    drawn: Wei  # its fees
    payouts_root: Digest
    promised: Wei  # to all accounts, ever


class Epoch(NewEpoch, frozen=True):
    """A stored epoch."""

    number: int
    payout_number: int | None  # in Payouts, once active; None where nothing was ever promised
    state: EpochState
    created_at: int
    updated_at: int


class PayoutRow(msgspec.Struct, frozen=True):
    """What an account ever earned at a gateway, as of an epoch."""

    gateway: Account
    epoch: int
    account: Account
    index: int  # of its leaf
    cumulative: Wei


class ClaimRow(msgspec.Struct, frozen=True):
    """A claim that the chain has paid."""

    gateway: Account
    account: Account
    payout_number: int
    cumulative: Wei  # paid ever, after it
    amount: Wei
    tx_hash: Digest
    created_at: int


def close(
    transaction: Transaction, new: NewEpoch, earned: Sequence[tuple[Account, Wei]], now: int
) -> Epoch:
    """Store the next epoch with its payouts, or find the same one.

    Args:
        transaction: where.
        new: the epoch.
        earned: cumulative payout per account, in the order of the leaves.
        now: microseconds.

    Raises:
        ConflictError: it leaves a gap, holds a receipt without statement, its sums do not hold,
            or another epoch starts at its first receipt.
    """
    found = starting_at(transaction, new.gateway, new.first)
    if found is not None:
        if values_of(found) | values_of(new) != values_of(found):
            raise ConflictError(f"epoch {found.number} starts at receipt {new.first} already")
        return found
    previous = latest(transaction, new.gateway)
    _check_follows(transaction, new, previous)
    _check_promise(transaction, new, earned, previous)
    number = FIRST_EPOCH if previous is None else previous.number + 1
    row = values_of(new) | {
        "number": number,
        "state": EpochState.CLOSED.value,
        "created_at": now,
        "updated_at": now,
    }
    insert_once(transaction, epochs, row)
    rows = [
        values_of(PayoutRow(new.gateway, number, account, index, amount))
        for index, (account, amount) in enumerate(earned)
    ]
    insert_new(transaction, payouts, rows)
    return get(transaction, new.gateway, number)


def get(transaction: Transaction, gateway: Account, number: int) -> Epoch:
    """An epoch by number.

    Raises:
        NotFoundError: none.
    """
    query = select(epochs).where(epochs.c.gateway == gateway, epochs.c.number == number)
    return one(transaction, held(transaction, query), Epoch, f"epoch {number}")


def starting_at(transaction: Transaction, gateway: Account, sequence: int) -> Epoch | None:
    """The epoch whose first receipt has this gateway_sequence."""
    query = select(epochs).where(epochs.c.gateway == gateway, epochs.c.first == sequence)
    return first(transaction, query, Epoch)


def holding(transaction: Transaction, gateway: Account, sequence: int) -> Epoch | None:
    """The epoch that holds the receipt with this gateway_sequence."""
    query = select(epochs).where(
        epochs.c.gateway == gateway,
        epochs.c.first <= sequence,
        epochs.c.first + epochs.c.size > sequence,
    )
    return first(transaction, query, Epoch)


def latest(transaction: Transaction, gateway: Account) -> Epoch | None:
    """The newest epoch."""
    query = select(epochs).where(epochs.c.gateway == gateway)
    return first(transaction, query.order_by(epochs.c.number.desc()), Epoch)


def active_number(transaction: Transaction, gateway: Account) -> int:
    """The highest number in Payouts that an epoch was given; 0 before the first."""
    query = select(func.max(epochs.c.payout_number)).where(epochs.c.gateway == gateway)
    return transaction.connection.execute(query).scalar() or 0


def list_all(transaction: Transaction, gateway: Account) -> list[Epoch]:
    """All epochs of a gateway, in order."""
    query = select(epochs).where(epochs.c.gateway == gateway)
    return every(transaction, query.order_by(epochs.c.number), Epoch)


def next_first(transaction: Transaction, gateway: Account) -> int:
    """The gateway_sequence at which the next epoch starts."""
    last = latest(transaction, gateway)
    return FIRST_SEQUENCE if last is None else last.first + last.size


def advance(
    transaction: Transaction,
    gateway: Account,
    number: int,
    state: EpochState,
    now: int,
    *,
    payout_number: int | None = None,
) -> Epoch:
    """Move an epoch on, never back; `payout_number` comes with `ACTIVE`.

    Raises:
        ConflictError: it promises something and is active without its number in Payouts, or with
            another one.
    """
    found = get(transaction, gateway, number)
    if state is EpochState.ACTIVE and payout_number is None and found.promised:
        raise ConflictError(f"epoch {number} is active once its number in Payouts is known")
    if found.payout_number is not None and payout_number not in (None, found.payout_number):
        raise ConflictError(f"epoch {number} is number {found.payout_number} in Payouts")
    if _ORDER.index(state) > _ORDER.index(found.state):
        change = epochs.update().where(epochs.c.gateway == gateway, epochs.c.number == number)
        values = {"state": state.value, "payout_number": payout_number, "updated_at": now}
        transaction.connection.execute(change.values(values))
    return get(transaction, gateway, number)


def payouts_of(transaction: Transaction, gateway: Account, number: int) -> Iterator[PayoutRow]:
    """What an epoch promises, in the order of its leaves."""
    query = select(payouts).where(payouts.c.gateway == gateway, payouts.c.epoch == number)
    return stream(transaction, query.order_by(payouts.c.index), PayoutRow)


def payout(
    transaction: Transaction, gateway: Account, number: int, account: Account
) -> PayoutRow | None:
    """What an epoch promises to one account."""
    query = select(payouts).where(
        payouts.c.gateway == gateway, payouts.c.epoch == number, payouts.c.account == account
    )
    return first(transaction, query, PayoutRow)


def earned_so_far(transaction: Transaction, gateway: Account) -> dict[Account, Wei]:
    """The cumulative table of the newest epoch; empty before the first."""
    last = latest(transaction, gateway)
    if last is None:
        return {}
    rows = payouts_of(transaction, gateway, last.number)
    return {row.account: row.cumulative for row in rows}


def note_claim(transaction: Transaction, row: ClaimRow) -> bool:
    """Store a claim that the chain has paid; whether it is new.

    Raises:
        ConflictError: the same claim is stored with another amount.
    """
    return insert_once(transaction, claims, values_of(row), {"created_at", "tx_hash"})


def claims_of(
    transaction: Transaction, gateway: Account, account: Account | None = None
) -> list[ClaimRow]:
    """Claims paid, in order of payout number and account."""
    query = select(claims).where(claims.c.gateway == gateway)
    if account is not None:
        query = query.where(claims.c.account == account)
    return every(transaction, query.order_by(claims.c.payout_number, claims.c.account), ClaimRow)


def _check_follows(transaction: Transaction, new: NewEpoch, previous: Epoch | None) -> None:
    expected = FIRST_SEQUENCE if previous is None else previous.first + previous.size
    if new.first != expected:
        raise ConflictError(f"the next epoch starts at receipt {expected}, not at {new.first}")
    held = 0
    drawn = 0
    for pair in pairs(transaction, new.gateway, new.first, new.size):
        held += 1
        drawn += pair.call.fee
    if not held or held != new.size:
        raise ConflictError(f"only {held} of {new.size} receipts are there with their statements")
    if drawn != new.drawn:
        raise ConflictError(f"the epoch draws {new.drawn} wei, its receipts cost {drawn}")


def _check_promise(
    transaction: Transaction,
    new: NewEpoch,
    earned: Sequence[tuple[Account, Wei]],
    previous: Epoch | None,
) -> None:
    before = 0 if previous is None else previous.promised
    total = sum(amount for _, amount in earned)
    if total != new.promised or total != before + new.drawn:
        raise ConflictError(
            f"payouts sum to {total} wei; promised are {new.promised}, funded {before + new.drawn}"
        )
    now = dict(earned)
    for account, amount in earned_so_far(transaction, new.gateway).items():
        if now.get(account, 0) < amount:
            raise ConflictError(f"the payout of {account} would fall below {amount} wei")
