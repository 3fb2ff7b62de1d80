"""One database: SQLite by default, PostgreSQL by URL, behind one kind of transaction.

SQLite runs in WAL mode with synchronous=FULL: what was committed survives a power cut. A
transaction that may write takes the write lock at its start, so writers queue instead of failing
in the middle; readers never wait and see one moment.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import msgspec
import sqlalchemy
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import IntegrityError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import ConnectionPoolEntry

from openledger.core.errors import (
    DISK_FULL,
    ConflictError,
    InvalidInputError,
    OpenLedgerError,
    StorageFullError,
    UnavailableError,
)

_POSTGRES_DISK_FULL = "53100"
_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_BROKEN: Final = frozenset(
    {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
)


class Config(msgspec.Struct, frozen=True):
    """How patient a writer is, and how many connections are kept."""

    busy_timeout_s: float = 30.0
    pool_size: int = 8
    pool_overflow: int = 32


class Transaction:
    """Work that is stored as a whole or not at all."""

    def __init__(self, connection: Connection, *, may_write: bool = True) -> None:
        self.connection = connection
        self.may_write = may_write

    @property
    def is_sqlite(self) -> bool:
        """Whether the database is SQLite; the only other one is PostgreSQL."""
        return self.connection.dialect.name == "sqlite"


class Database:
    """The one database of a home; safe to share among threads."""

    def __init__(self, where: str | Path, config: Config | None = None) -> None:
        """Open, without looking at the schema (`schema.check` does).

        Args:
            where: the path of an SQLite file, made when missing, or a PostgreSQL URL.
            config: patience and pool.
        """
        self._config = config or Config()
        self.url = _url(where)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.engine = self._engine()
        self._writers = threading.Lock()

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Commit on exit, roll back on any error; transactions do not nest.

        Raises:
            StorageFullError: the disk is full; nothing of this transaction is stored.
            ConflictError: a constraint of the schema forbids it.
            UnavailableError: another writer held the database for too long, or it is gone.
        """
        with self._turn(), _translated(), self.engine.begin() as connection:
            yield Transaction(connection)

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """Look at one moment of the database; any write raises.

        Raises:
            UnavailableError: the database is gone.
        """
        with _translated(), self.engine.connect() as plain:
            connection = plain.execution_options(openledger_reading=True)
            with connection.begin() as begun:
                yield Transaction(connection, may_write=False)
                begun.rollback()

    def checkpoint(self) -> None:
        """Fold SQLite's write-ahead log into the file, so that destroyed rows leave the disk."""
        if self.is_sqlite:
            with self._turn(), _translated(), closing(self.engine.raw_connection()) as pooled:
                pooled.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Give back every connection."""
        self.engine.dispose()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        # A lock of our own is fair and quick; SQLite's own waiting sleeps between tries.
        if not self.is_sqlite:
            yield
            return
        if not self._writers.acquire(timeout=self._config.busy_timeout_s):
            raise UnavailableError("another writer holds the database; try again")
        try:
            yield
        finally:
            self._writers.release()

    def _engine(self) -> Engine:
        config = self._config
        arguments = {"timeout": config.busy_timeout_s, "isolation_level": None}
        engine = sqlalchemy.create_engine(
            self.url,
            pool_size=config.pool_size,
            max_overflow=config.pool_overflow,
            pool_timeout=config.busy_timeout_s,
            connect_args=arguments if self.is_sqlite else {},
        )
        if self.is_sqlite:
            event.listen(engine, "connect", _configure_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
        else:
            event.listen(engine, "begin", _begin_postgres)
        return engine


def copy_sqlite(source: Path, target: Path) -> None:
    """Copy an SQLite database, as of one moment, while others write to it.

    Raises:
        StorageFullError: no room for the copy.
        UnavailableError: the database cannot be read.
    """
    with (
        _translated(),
        closing(sqlite3.connect(source)) as original,
        closing(sqlite3.connect(target)) as copy,
    ):
        original.backup(copy)
        # One file, complete in itself: a copy in WAL mode would want to make neighbours.
        copy.execute("PRAGMA journal_mode=DELETE")


def _url(where: str | Path) -> URL:
    if isinstance(where, str) and "://" in where:
        url = make_url(where)
        if url.get_backend_name() not in ("sqlite", "postgresql"):
            raise InvalidInputError(f"{where} is neither SQLite nor PostgreSQL")
        return url
    return URL.create("sqlite", database=str(Path(where).absolute()))


def _configure_sqlite(connection: sqlite3.Connection, _record: ConnectionPoolEntry) -> None:
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "secure_delete=ON",  # a destroyed key must not linger in a free page
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    is_reading = bool(connection.get_execution_options().get("openledger_reading"))
    connection.exec_driver_sql(f"PRAGMA query_only={int(is_reading)}")
    connection.exec_driver_sql("BEGIN" if is_reading else "BEGIN IMMEDIATE")


def _begin_postgres(connection: Connection) -> None:
    if connection.get_execution_options().get("openledger_reading"):
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")


@contextmanager
def _translated() -> Iterator[None]:
    """Turn what the world does to a database into our errors; bugs stay what they are."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error) as error:
        known = _translation(error)
        if known is None:
            raise
        raise known from error


def _translation(error: SQLAlchemyError | sqlite3.Error) -> OpenLedgerError | None:
    cause = getattr(error, "orig", error)
    if isinstance(cause, OpenLedgerError):  # a column type refused a value
        return cause
    if isinstance(error, IntegrityError):
        return ConflictError(f"the database refuses it: {cause}")
    if isinstance(error, PoolTimeoutError):
        return UnavailableError("too many connections to the database; try again")
    if isinstance(cause, sqlite3.Error):
        return _sqlite_translation(cause)
    return _postgres_translation(error, getattr(cause, "sqlstate", None))


def _postgres_translation(
    error: SQLAlchemyError | sqlite3.Error, sqlstate: str | None
) -> OpenLedgerError | None:
    if sqlstate == _POSTGRES_DISK_FULL:
        return StorageFullError(DISK_FULL)
    # PostgreSQL gives a state to every error of its own; without one it was never reached.
    if isinstance(error, OperationalError) and not sqlstate:
        return UnavailableError(f"the database does not answer: {error}")
    return None


def _sqlite_translation(error: sqlite3.Error) -> OpenLedgerError | None:
    extended = getattr(error, "sqlite_errorcode", 0)
    code = extended & 0xFF
    if code == sqlite3.SQLITE_FULL or extended == sqlite3.SQLITE_IOERR_SHMSIZE:
        return StorageFullError(DISK_FULL)
    if code in _BUSY:
        return UnavailableError("another process holds the database; try again")
    if code in _BROKEN:
        return UnavailableError(f"the database cannot be read or written: {error}")
    return None
