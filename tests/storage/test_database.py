import sqlite3
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from openledger.core.errors import (
    ConflictError,
    InvalidInputError,
    StorageFullError,
    UnavailableError,
)
from openledger.core.types import Wei
from openledger.storage.database import Config, Database, Transaction, copy_sqlite
from openledger.storage.tables import payer_books, statements, vault_keys
from tests.storage.rows import GATEWAY, OTHER, PAYER, QuickDatabase


def _add_book(transaction: Transaction, total: int, payer: str = PAYER) -> None:
    row = {"gateway": GATEWAY, "payer": payer, "next_sequence": 1, "total": Wei(total)}
    transaction.connection.execute(payer_books.insert().values(row))


def _totals(database: Database) -> list[int]:
    with database.read() as transaction:
        query = select(payer_books.c.total).order_by(payer_books.c.total)
        return list(transaction.connection.execute(query).scalars())


def test_a_transaction_commits_on_exit(database: Database) -> None:
    with database.transaction() as transaction:
        _add_book(transaction, 5)

    assert _totals(database) == [5]


def test_a_transaction_rolls_back_on_any_error(database: Database) -> None:
    def fail() -> None:
        with database.transaction() as transaction:
            _add_book(transaction, 5)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert _totals(database) == []


def test_a_reader_cannot_write(database: Database) -> None:
    with pytest.raises(Exception, match=r"read.?only"), database.read() as transaction:
        _add_book(transaction, 5)

    with database.transaction() as transaction:
        _add_book(transaction, 6)
    assert _totals(database) == [6]


def test_a_reader_sees_one_moment(sqlite: Database) -> None:
    with sqlite.read() as reader:
        assert reader.connection.execute(select(payer_books)).all() == []
        with sqlite.transaction() as writer:
            _add_book(writer, 5)

        assert reader.connection.execute(select(payer_books)).all() == []


def test_sqlite_is_as_durable_as_promised(sqlite: Database) -> None:
    with sqlite.read() as transaction:
        found = [
            transaction.connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "secure_delete")
        ]

    assert found == ["wal", 2, 1, 1]
    assert transaction.is_sqlite


def test_a_constraint_of_the_schema_is_a_conflict(database: Database) -> None:
    def add_twice() -> None:
        with database.transaction() as transaction:
            _add_book(transaction, 5)
            _add_book(transaction, 5)

    with pytest.raises(ConflictError):
        add_twice()
    orphan = {"receipt": "rcp", "digest": "d", "record": b"", "created_at": 1}
    with pytest.raises(ConflictError), database.transaction() as transaction:
        transaction.connection.execute(statements.insert().values(orphan))

    assert _totals(database) == []


def test_a_bug_in_a_query_stays_a_bug(sqlite: Database) -> None:
    with pytest.raises(OperationalError), sqlite.read() as transaction:
        transaction.connection.exec_driver_sql("SELECT * FROM nothing")


def test_writers_queue(sqlite: Database) -> None:
    def add() -> None:
        for _ in range(5):
            with sqlite.transaction() as transaction:
                query = select(payer_books.c.total)
                total = transaction.connection.execute(query).scalar() or Wei(0)
                change = payer_books.update().values(total=Wei(total + 1))
                transaction.connection.execute(change)

    with sqlite.transaction() as transaction:
        _add_book(transaction, 0)
    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert _totals(sqlite) == [20]


def test_a_writer_gives_up_after_its_patience(template: Path, tmp_path: Path) -> None:
    path = tmp_path / "openledger.db"
    path.write_bytes(template.read_bytes())
    database = Database(path, Config(busy_timeout_s=0.05))

    with (
        database.transaction(),
        pytest.raises(UnavailableError, match="another writer"),
        database.transaction(),
    ):
        raise AssertionError
    other = sqlite3.connect(path)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(UnavailableError, match="another process"), database.transaction():
        raise AssertionError
    other.close()
    database.close()


def test_too_many_readers_are_told_to_wait(template: Path) -> None:
    database = Database(template, Config(busy_timeout_s=0.05, pool_size=1, pool_overflow=0))

    with (
        database.read(),
        pytest.raises(UnavailableError, match="too many connections"),
        database.read(),
    ):
        raise AssertionError
    database.close()


def test_a_full_disk_loses_nothing(sqlite: Database) -> None:
    def fill() -> None:
        with sqlite.transaction() as full:
            pages = full.connection.exec_driver_sql("PRAGMA page_count").scalar()
            full.connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
            _add_book(full, 2, OTHER)
            row = {"id": "key", "wrapped": bytes(100_000), "created_at": 1}
            full.connection.execute(vault_keys.insert().values(row))

    with sqlite.transaction() as transaction:
        _add_book(transaction, 1)
    with pytest.raises(StorageFullError, match="free some space"):
        fill()

    assert _totals(sqlite) == [1]
    with sqlite.transaction() as transaction:
        transaction.connection.exec_driver_sql("PRAGMA max_page_count=1000000")
        _add_book(transaction, 2, OTHER)
    assert _totals(sqlite) == [1, 2]


def test_a_file_that_is_no_database_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "broken.db").write_bytes(b"no database at all" * 100)
    database = Database(tmp_path / "broken.db")

    with pytest.raises(UnavailableError, match="cannot be read"), database.read():
        raise AssertionError
    with pytest.raises(UnavailableError, match="cannot be read"):
        copy_sqlite(tmp_path / "broken.db", tmp_path / "copy.db")


def test_only_sqlite_and_postgresql_are_databases() -> None:
    with pytest.raises(InvalidInputError, match="neither"):
        Database("mysql://host/name")


def test_an_sqlite_url_is_a_database_too(template: Path) -> None:
    database = Database(f"sqlite:///{template}")

    assert _totals(database) == []
    database.close()


def test_a_postgres_that_does_not_answer_is_unavailable(postgres: Database) -> None:
    gone = Database(postgres.url.set(port=1).render_as_string(hide_password=False))

    with pytest.raises(UnavailableError), gone.read():
        raise AssertionError


def test_a_checkpoint_empties_the_log(database: Database) -> None:
    with database.transaction() as transaction:
        _add_book(transaction, 5)

    database.checkpoint()

    if database.is_sqlite:
        assert Path(f"{database.url.database}-wal").stat().st_size == 0
    assert _totals(database) == [5]


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**256 - 1), unique=True, max_size=8))
def test_money_is_exact_and_sorts_as_numbers_do(amounts: list[int]) -> None:
    database = QuickDatabase()
    with database.transaction() as transaction:
        for number, amount in enumerate(amounts):
            _add_book(transaction, amount, f"0x{number:040x}")

    assert _totals(database) == sorted(amounts)
    database.close()


def test_the_largest_amount_fits_in_both(database: Database) -> None:
    with database.transaction() as transaction:
        _add_book(transaction, 2**256 - 1)

    assert _totals(database) == [2**256 - 1]


@pytest.mark.parametrize("amount", [-1, 2**256])
def test_money_out_of_range_is_refused(sqlite: Database, amount: int) -> None:
    with pytest.raises(InvalidInputError, match="wei"), sqlite.transaction() as transaction:
        _add_book(transaction, amount)


@pytest.mark.parametrize("number", [-(2**63) - 1, 2**63, 10**20])
def test_numbers_beyond_64_bits_are_refused_in_rows_and_questions(
    sqlite: Database, number: int
) -> None:
    query = select(payer_books).where(payer_books.c.next_sequence == number)

    with pytest.raises(InvalidInputError, match="64 bits"), sqlite.read() as transaction:
        transaction.connection.execute(query)
