"""A database of the newest schema, empty, on SQLite and (where one is given) on PostgreSQL."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from openledger.storage import schema
from openledger.storage.database import Database

POSTGRES = "OPENLEDGER_TEST_POSTGRES"


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file of the newest schema; copying it is quicker than migrating."""
    path = tmp_path_factory.mktemp("template") / "openledger.db"
    database = Database(path)
    schema.upgrade(database)
    database.checkpoint()
    database.close()
    return path


@pytest.fixture
def sqlite(template: Path, tmp_path: Path) -> Iterator[Database]:
    path = tmp_path / "openledger.db"
    shutil.copyfile(template, path)
    database = Database(path)
    yield database
    database.close()


@pytest.fixture
def postgres() -> Iterator[Database]:
    """The PostgreSQL database of the environment; everything in it is dropped first."""
    url = os.environ.get(POSTGRES)
    if not url:
        pytest.skip(f"set {POSTGRES} to the URL of an empty PostgreSQL database to run this")
    database = Database(url)
    with database.transaction() as transaction:
        transaction.connection.exec_driver_sql("DROP SCHEMA public CASCADE")
        transaction.connection.exec_driver_sql("CREATE SCHEMA public")
    schema.upgrade(database)
    yield database
    database.close()


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> Database:
    """Each test that asks for it runs on both."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Database)
    return found
