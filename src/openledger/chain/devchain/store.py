"""The file of the development chain: py-evm's key-value pairs beside receipts and logs to query.

Everything one block changes is written in one SQLite transaction with `synchronous=FULL`, so a
killed process finds the last whole block. One process owns the file, by a lock beside it that the
system gives back when it dies; others may read it meanwhile, so that a backup needs no pause.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from openledger.core.errors import HomeBusyError, StorageFullError, UnavailableError

_SCHEMA = """
create table if not exists pairs (key blob primary key, item blob not null) without rowid;
create table if not exists facts (name text primary key, item text not null) without rowid;
create table if not exists blocks (
    number integer primary key, hash blob not null unique, body blob not null
);
create table if not exists transactions (
    hash blob primary key, number integer not null, body blob not null, receipt blob not null
) without rowid;
create table if not exists logs (
    number integer not null, log_index integer not null, address blob not null, body blob not null,
    primary key (number, log_index)
) without rowid;
"""


class StoredLog(msgspec.Struct, frozen=True):
    """One log as it is filtered: where, by whom, and its JSON-RPC form."""

    number: int
    log_index: int
    address: bytes
    body: bytes


class StoredTransaction(msgspec.Struct, frozen=True):
    """One mined transaction and its receipt, both in their JSON-RPC form."""

    hash: bytes
    number: int
    body: bytes
    receipt: bytes


class Store:
    """One SQLite connection; the node above it holds a lock, so one thread uses it at a time.

    Raises:
        HomeBusyError: another process has the file open.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _own(path)
        self._connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=1.0
        )
        self._connection.execute("pragma journal_mode=wal")
        self._connection.execute("pragma synchronous=full")
        self._connection.executescript(f"begin immediate; {_SCHEMA} commit;")

    def close(self) -> None:
        self._connection.close()
        os.close(self._lock)

    @contextmanager
    def block(self) -> Iterator[None]:
        """Write all that follows together, or nothing of it.

        Raises:
            StorageFullError: the disk is full; the block was not made.
            UnavailableError: the file could not be written; the block was not made.
        """
        try:
            self._connection.execute("begin immediate")
            yield
            self._connection.execute("commit")
        except sqlite3.OperationalError as error:
            self._roll_back()
            if "full" in str(error):
                raise StorageFullError("no space left for the development chain") from error
            raise UnavailableError(f"the development chain cannot write: {error}") from error
        except BaseException:
            self._roll_back()
            raise

    def pair(self, key: bytes) -> bytes | None:
        return self._one("select item from pairs where key = ?", key)

    def put_pair(self, key: bytes, item: bytes) -> None:
        self._connection.execute("insert or replace into pairs values (?, ?)", (key, item))

    def drop_pair(self, key: bytes) -> None:
        self._connection.execute("delete from pairs where key = ?", (key,))

    def fact(self, name: str) -> int | None:
        row = self._connection.execute("select item from facts where name = ?", (name,)).fetchone()
        return None if row is None else int(row[0])

    def put_fact(self, name: str, item: int) -> None:
        self._connection.execute("insert or replace into facts values (?, ?)", (name, str(item)))

    def block_at(self, number: int) -> bytes | None:
        return self._one("select body from blocks where number = ?", number)

    def block_of(self, block_hash: bytes) -> bytes | None:
        return self._one("select body from blocks where hash = ?", block_hash)

    def put_block(self, number: int, block_hash: bytes, body: bytes) -> None:
        row = (number, block_hash, body)
        self._connection.execute("insert into blocks values (?, ?, ?)", row)

    def transaction(self, transaction_hash: bytes) -> bytes | None:
        return self._one("select body from transactions where hash = ?", transaction_hash)

    def receipt(self, transaction_hash: bytes) -> bytes | None:
        return self._one("select receipt from transactions where hash = ?", transaction_hash)

    def put_transaction(self, transaction: StoredTransaction) -> None:
        row = msgspec.structs.astuple(transaction)
        self._connection.execute("insert into transactions values (?, ?, ?, ?)", row)

    def put_logs(self, logs: Iterable[StoredLog]) -> None:
        rows = [msgspec.structs.astuple(log) for log in logs]
        self._connection.executemany("insert into logs values (?, ?, ?, ?)", rows)

    def logs(self, first: int, last: int, addresses: Iterable[bytes]) -> list[bytes]:
        """Logs of the blocks `first` to `last`, of these contracts (none: of all), in order."""
        wanted = tuple(addresses)
        marks = ",".join("?" * len(wanted))
        where = f" and address in ({marks})" if wanted else ""
        query = (
            "select body from logs where number between ? and ?"  # noqa: S608 - only marks added
            f"{where} order by number, log_index"
        )
        return [row[0] for row in self._connection.execute(query, (first, last, *wanted))]

    def _one(self, query: str, key: bytes | int) -> bytes | None:
        row = self._connection.execute(query, (key,)).fetchone()
        return None if row is None else bytes(row[0])

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("rollback")


def _own(path: Path) -> int:
    """The handle of the lock beside the file."""
    handle = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise HomeBusyError(
            f"the development chain in {path} is in use by another process; stop that one first"
        ) from error
    return handle
