import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect

from openledger.core.errors import UnavailableError
from openledger.storage import schema
from openledger.storage.database import Database
from openledger.storage.tables import metadata


def test_the_migrations_lead_to_the_tables(database: Database) -> None:
    with database.transaction() as transaction:
        context = MigrationContext.configure(transaction.connection, opts={"compare_type": True})
        difference = compare_metadata(context, metadata)

    assert difference == []
    schema.check(database)


def test_upgrading_twice_changes_nothing(database: Database) -> None:
    schema.upgrade(database)

    assert schema.current(database) == schema.head()


def test_a_downgrade_undoes_everything(database: Database) -> None:
    schema.downgrade(database)

    assert schema.current(database) is None
    assert inspect(database.engine).get_table_names() == ["alembic_version"]
    schema.upgrade(database)
    schema.check(database)


def test_an_empty_database_is_told_to_upgrade(tmp_path: Path) -> None:
    database = Database(tmp_path / "100%.db")

    with pytest.raises(UnavailableError, match="openledger db upgrade"):
        schema.check(database)
    schema.upgrade(database)
    schema.check(database)
    database.close()


def test_a_newer_database_is_refused(sqlite: Database) -> None:
    with sqlite.transaction() as transaction:
        transaction.connection.exec_driver_sql("UPDATE alembic_version SET version_num='9999'")

    with pytest.raises(UnavailableError, match="newer OpenLedger"):
        schema.check(sqlite)
    with pytest.raises(UnavailableError, match="newer OpenLedger"):
        schema.upgrade(sqlite)


def test_a_migration_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "openledger.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE outbox (id INTEGER)")  # in the way of the last migration
    connection.close()
    database = Database(path)

    with pytest.raises(Exception, match="already exists"):
        schema.upgrade(database)
    assert inspect(database.engine).get_table_names() == ["outbox"]
    database.close()
