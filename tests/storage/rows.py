"""Rows that tests of storage share."""

import shutil
import sqlite3
import tempfile
from pathlib import Path

from sqlalchemy import event

from openledger.core.identity import Totals
from openledger.core.types import Account, Digest, ReceiptId, Wei
from openledger.storage import schema
from openledger.storage.database import Database, Transaction
from openledger.storage.records.money import balances, calls, epochs, totals
from openledger.storage.records.money.balances import EscrowBalance, NewHold, VoucherRow
from openledger.storage.records.money.calls import Call, NewCall, Statement

GATEWAY = Account("0x" + "1" * 40)
PAYER = Account("0x" + "2" * 40)
OTHER = Account("0x" + "3" * 40)
CHANNEL = Digest("c" * 64)


def sums(transaction: Transaction, gateway: Account = GATEWAY) -> Totals:
    """The sums when the contracts are as far as the books."""
    known = epochs.list_all(transaction, gateway)
    active = known[-1].payouts_root if known else None
    return totals.totals(transaction, gateway, totals.Progress(len(known), active))


def digest_of(number: int) -> Digest:
    return Digest(f"{number:064x}")


def receipt_of(number: int) -> ReceiptId:
    return ReceiptId(f"rcp_{number}")


def fund(transaction: Transaction, amount: int, payer: Account = PAYER, block: int = 1) -> None:
    """Deposit and sign a voucher for the whole of it."""
    zero = Wei(0)
    balance = EscrowBalance(GATEWAY, payer, Wei(amount), zero, zero, zero, block)
    balances.set_escrow(transaction, balance)
    row = VoucherRow(GATEWAY, payer, CHANNEL, b"channel", Wei(amount), "signature", block)
    balances.set_voucher(transaction, row)


def hold_of(
    number: int, amount: int, payer: Account = PAYER, key: str | None = None, expires_at: int = 1000
) -> NewHold:
    return NewHold(receipt_of(number), GATEWAY, payer, key, "release", Wei(amount), expires_at)


def next_call(transaction: Transaction, number: int, fee: int, payer: Account = PAYER) -> NewCall:
    """A receipt that continues the chain as it stands."""
    at = calls.tip(transaction, GATEWAY, payer)
    return NewCall(
        id=receipt_of(number),
        gateway_sequence=at.gateway_sequence,
        payer_sequence=at.payer_sequence,
        fee=Wei(fee),
        gateway_total=Wei(at.gateway_total + fee),
        payer_total=Wei(at.payer_total + fee),
        previous=at.previous,
        digest=digest_of(number),
        record=b"record %d" % number,
        payer_salt=bytes(32),
        private=b"prompt and answer",
    )


def charge(
    transaction: Transaction,
    number: int,
    fee: int,
    payer: Account = PAYER,
    key: str | None = None,
    now: int = 10,
) -> Call:
    """Hold and charge in one go."""
    balances.open_hold(transaction, hold_of(number, fee, payer, key), now)
    return calls.append(transaction, next_call(transaction, number, fee, payer), now)


def statement_of(number: int) -> Statement:
    return Statement(receipt_of(number), digest_of(1000 + number), b"shares %d" % number, 20)


class QuickDatabase(Database):
    """A throwaway SQLite database that does not wait for the disk; for many small examples."""

    template: Path | None = None

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory()
        path = Path(self._temporary.name) / "openledger.db"
        if QuickDatabase.template is None:
            kept = Path(tempfile.mkdtemp()) / "template.db"
            made = Database(kept)
            schema.upgrade(made)
            made.checkpoint()
            made.close()
            QuickDatabase.template = kept
        shutil.copyfile(QuickDatabase.template, path)
        super().__init__(path)
        event.listen(self.engine, "connect", _hurry)

    def close(self) -> None:
        super().close()
        self._temporary.cleanup()


def _hurry(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA synchronous=OFF")
