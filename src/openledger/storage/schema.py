"""Bring a database to the shape of `tables`, with Alembic, inside this process."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from openledger.core.errors import UnavailableError
from openledger.storage.database import Database, Transaction

_FOLDER = Path(__file__).with_name("migrations")


def upgrade(database: Database, revision: str = "head") -> None:
    """Apply the missing migrations, all of them or none.

    Raises:
        UnavailableError: a newer version of this program made the database.
    """
    with database.transaction() as transaction:
        _refuse_unknown(_revision(transaction))
        command.upgrade(_config(transaction), revision)


def downgrade(database: Database, revision: str = "base") -> None:
    """Undo migrations down to a revision; the data of dropped tables is lost."""
    with database.transaction() as transaction:
        command.downgrade(_config(transaction), revision)


def check(database: Database) -> None:
    """Check at start that database and program fit.

    Raises:
        UnavailableError: they do not; the message says what to run.
    """
    with database.read() as transaction:
        found = _revision(transaction)
    if found != head():
        _refuse_unknown(found)
        raise UnavailableError(
            f"the database is at version {found or 'none'}, this program needs {head()}: run "
            "`openledger db upgrade`"
        )


def current(database: Database) -> str | None:
    """The database's revision; None when it is empty."""
    with database.read() as transaction:
        return _revision(transaction)


def head() -> str | None:
    """The newest revision that this program knows."""
    return _scripts().get_current_head()


def _revision(transaction: Transaction) -> str | None:
    return MigrationContext.configure(transaction.connection).get_current_revision()


def _refuse_unknown(revision: str | None) -> None:
    known = {script.revision for script in _scripts().walk_revisions()}
    if revision is not None and revision not in known:
        raise UnavailableError(
            f"a newer OpenLedger made this database (version {revision}): install that one"
        )


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config(None))


def _config(transaction: Transaction | None) -> Config:
    config = Config()
    # A percent sign in a path would be read as an interpolation.
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.attributes["connection"] = transaction and transaction.connection
    return config
