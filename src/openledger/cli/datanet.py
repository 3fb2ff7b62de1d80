"""`openledger datanet`: found one, bring data in, look at it, check it."""

from pathlib import Path
from typing import Annotated

import typer

from openledger.cli.context import of
from openledger.cli.output import short, table, told

app = typer.Typer(no_args_is_help=True, help="Put data in, and prove that it is there.")


@app.command(
    epilog='Example: openledger datanet create tunes --description "Our tunes." --licence CC0-1.0'
)
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Lower-case letters, digits, dashes: folk-music.")],
    description: Annotated[str, typer.Option(help="What belongs here, in a sentence or two.")],
    licence: Annotated[list[str], typer.Option(help="An SPDX id that is taken; repeat it.")],
    owner: Annotated[str, typer.Option(help="Account that owns and curates it.")] = "operator",
    data_floor: Annotated[
        int, typer.Option(help="Least part of each fee for data, in basis points.")
    ] = 3_000,
) -> None:
    """Found a Datanet; its rules stand on chain and never change."""
    from openledger.operations.datanets import CREATE, NewDatanet

    with told((here := of(context)).output):
        new = NewDatanet(
            name=name,
            description=description,
            licences=tuple(licence),
            owner=owner,
            data_floor_bps=data_floor,
        )
        made = here.act(CREATE, new)
        here.output.result(made, f"{made.name} is Datanet {made.number} on chain")


@app.command(epilog="Example: openledger datanet add tunes mine.abc --as me --licence CC0-1.0")
def add(
    context: typer.Context,
    datanet: Annotated[str, typer.Argument(help="Name of the Datanet.")],
    files: Annotated[list[Path], typer.Argument(help="Text, Markdown, ABC or JSONL files.")],
    contributor: Annotated[str, typer.Option("--as", help="Account that contributes.")],
    licence: Annotated[str, typer.Option(help="Licence of documents that do not name one.")] = "",
    claim: Annotated[str, typer.Option(help="author, licensee or collector.")] = "author",
) -> None:
    """Contribute files: looked at, their hash committed, then cleaned, sealed, stored, revealed.

    The operator of the home sees them; a running server gets them as they are.

    Together at most serve.max_body_mb (64 MiB) a command.
    """
    from openledger.datanet.extract import File
    from openledger.operations.datanets import ADD, Addition

    with told((here := of(context)).output):
        _check_sizes(files, here.settings.serve.max_body_mb)
        read = tuple(File(path.name, path.read_bytes()) for path in files)
        made = here.act(ADD, Addition(datanet, contributor, read, licence, claim))
        text = f"contribution {made.number}: {made.state}, {made.chunks} chunks"
        here.output.result(made, text)


@app.command(epilog="Example: openledger datanet show tunes")
def show(
    context: typer.Context, name: Annotated[str, typer.Argument(help="Name of the Datanet.")]
) -> None:
    """Show a Datanet and its contributions."""
    from openledger.operations.datanets import SHOW, WhichDatanet

    with told((here := of(context)).output):
        found = here.act(SHOW, WhichDatanet(name))
        head = (
            f"{found.name} ({found.title}): Datanet {found.number} of {short(found.owner)}, "
            f"licences {', '.join(found.licences)}, data floor {found.data_floor_bps} bps, "
            f"change {found.sequence}, head {short(found.head)}"
        )
        rows = [
            [
                str(one.number or ""),
                one.name + (" (on behalf)" if one.on_behalf else ""),
                one.state,
                str(one.chunks),
                one.reason or "",
            ]
            for one in found.contributions
        ]
        here.output.result(
            found, f"{head}\n{table(['#', 'contributor', 'state', 'chunks', 'reason'], rows)}"
        )


@app.command("list", epilog="Example: openledger datanet list")
def list_all(context: typer.Context) -> None:
    """List the Datanets of this home."""
    from openledger.operations.datanets import LIST
    from openledger.operations.operation import Nothing

    with told((here := of(context)).output):
        found = here.act(LIST, Nothing())
        rows = [[one.name, one.title, str(one.number or "")] for one in found.datanets]
        here.output.result(found, table(["name", "title", "on chain"], rows))


@app.command(epilog="Example: openledger datanet verify tunes")
def verify(
    context: typer.Context, name: Annotated[str, typer.Argument(help="Name of the Datanet.")]
) -> None:
    """Open every stored chunk, hold it against its manifest, and that against the chain."""
    from openledger.operations.datanets import VERIFY, WhichDatanet

    with told((here := of(context)).output):
        found = here.act(VERIFY, WhichDatanet(name))
        here.output.result(
            found,
            f"{found.name} holds: {found.contributions} contributions, {found.chunks} chunks, "
            f"{found.bytes} bytes, all as anchored",
        )


def _check_sizes(files: list[Path], limit_mb: int) -> None:
    """Refuse, before anything is read, what a server with these settings would refuse as well."""
    from openledger.core.errors import InvalidInputError, NotFoundError

    for path in files:
        if not path.is_file():
            raise NotFoundError(f"there is no file {path}")
    size = sum(path.stat().st_size for path in files)
    if size > limit_mb << 20:
        raise InvalidInputError(
            f"the files have {size} bytes together, more than {limit_mb} MiB: give fewer at a "
            "time, split the largest, or raise serve.max_body_mb"
        )
