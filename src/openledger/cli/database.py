"""`openledger db`: the schema, backups, restoring."""

import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from openledger.cli.context import of
from openledger.cli.output import told

app = typer.Typer(no_args_is_help=True, help="Upgrade, back up or restore a home.")


class Done(msgspec.Struct, frozen=True):
    """What was done, and to what."""

    what: str
    path: str


@app.command(epilog="Example: openledger db upgrade")
def upgrade(context: typer.Context) -> None:
    """Bring the database of this home to the shape that this version needs."""
    from openledger.storage import schema
    from openledger.storage.database import Database
    from openledger.storage.home import Home

    with told((here := of(context)).output):
        home = Home(here.home)
        with home.own():
            database = Database(here.settings.home.database or home.database)
            schema.upgrade(database)
            version = schema.current(database)
            database.close()
        here.output.result(Done("upgraded", str(version)), f"the database is at version {version}")


@app.command(epilog="Example: openledger db backup copy.tar")
def backup(
    context: typer.Context,
    target: Annotated[Path, typer.Argument(help="A new folder, or a file ending in .tar.")],
) -> None:
    """Copy database, blobs and encrypted keys, with the digest of every file."""
    from openledger.storage.backup import backup as back_up
    from openledger.storage.home import Home

    with told((here := of(context)).output):
        back_up(Home(here.home), target, time.time_ns() // 1_000)
        here.output.result(Done("backed up", str(target)), f"backed up to {target}")


@app.command(epilog="Example: openledger --home restored db restore copy.tar")
def restore(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(help="A backup made by `db backup`.")],
) -> None:
    """Restore a backup into this home, which must be empty; every file is checked."""
    from openledger.storage.backup import restore as bring_back
    from openledger.storage.home import Home

    with told((here := of(context)).output):
        bring_back(source, Home(here.home))
        here.output.result(Done("restored", str(here.home)), f"restored into {here.home}")
