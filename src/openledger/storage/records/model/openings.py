"""Who opened the attribution state of a run, why and when: append-only, noted before it is opened.

A state is as secret as the data it comes from. Nothing here changes or deletes a row.
"""

from enum import StrEnum

import msgspec
from sqlalchemy import select

from openledger.core.types import Account
from openledger.storage.database import Transaction
from openledger.storage.records.rows import every, insert_new, row_id, values_of
from openledger.storage.tables import state_openings


class Purpose(StrEnum):
    """What a state is opened for."""

    TRAINING = "training"  # a run that was stopped looks whether its state is built
    SCORING = "scoring"  # whose data made the answers of this process
    EVIDENCE = "evidence"  # which documents made one answer
    BUNDLE = "bundle"  # rows for the bundle of one receipt
    EXPORT = "export"  # a copy for a party or an auditor


class Opening(msgspec.Struct, frozen=True):
    """One opening."""

    run: str  # row id
    account: Account  # who asked
    purpose: Purpose
    subject: str  # the receipt or folder it was opened for; empty where the purpose says all
    opened_at: int


def note(transaction: Transaction, opening: Opening) -> None:
    """Add an opening to the log."""
    row = {"id": row_id(opening.opened_at)} | values_of(opening)
    insert_new(transaction, state_openings, [row])


def of_run(transaction: Transaction, run_id: str) -> list[Opening]:
    """The openings of a run's state, the oldest first."""
    query = select(state_openings).where(state_openings.c.run == run_id)
    ordered = query.order_by(state_openings.c.opened_at, state_openings.c.id)
    return every(transaction, ordered, Opening)
