"""`openledger`: the one command, its global options and its nouns."""

import sys
from typing import Annotated

import typer

from openledger import __version__
from openledger.cli import (
    base,
    database,
    datanet,
    doctor,
    epoch,
    model,
    receipt,
    run_training,
    serve,
    wallet,
)
from openledger.cli.context import Context
from openledger.cli.demo.command import demo
from openledger.wiring.threads import limit_spinning

HELP = """Put data in, fine-tune a small model, sell its answers, pay the people behind them.

Start with: openledger demo

Exit codes: 0 done, 1 failed, 2 wrong use, 3 not found, 4 not allowed, 5 not enough balance,
6 verification failed, 7 not available now (try again), 130 interrupted.
"""

app = typer.Typer(
    help=HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
app.command("demo", epilog="Example: openledger demo --tiny")(demo)
app.command("serve", epilog="Example: openledger serve --port 8800")(serve.serve)
app.command("doctor", epilog="Example: openledger doctor")(doctor.doctor)
app.add_typer(datanet.app, name="datanet")
app.add_typer(base.app, name="base")
app.add_typer(run_training.app, name="run")
app.add_typer(model.app, name="model")
app.add_typer(wallet.app, name="wallet")
app.add_typer(receipt.app, name="receipt")
app.add_typer(epoch.app, name="epoch")
app.add_typer(database.app, name="db")


def _version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def main(
    context: typer.Context,
    home: Annotated[
        str | None, typer.Option(help="Folder of this installation's data and keys.")
    ] = None,
    chain: Annotated[
        str | None,
        typer.Option(help="embedded, anvil, or the URL of an EVM node; op+URL: OP Stack."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a result.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no advice.")] = False,
    version: Annotated[  # noqa: ARG001 - its callback acts
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Keep the global options for the command that follows."""
    flags = {"home": {"path": home}, "chain": {"url": chain}}
    context.obj = Context(flags=flags, as_json=as_json, is_quiet=quiet)


def run() -> None:
    """The console script; global options may stand before or after the command."""
    limit_spinning()  # here, since several commands come to torch by their own ways
    sys.argv[1:] = _globals_first(sys.argv[1:])
    app()


def _globals_first(arguments: list[str]) -> list[str]:
    """Move the global options to the front, wherever they were typed."""
    front: list[str] = []
    rest: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        if argument == "--":
            rest += [argument, *waiting]
        elif argument in ("--json", "--quiet", "-q") or argument.startswith(
            ("--home=", "--chain=")
        ):
            front.append(argument)
        elif argument in ("--home", "--chain"):
            front += [argument, *(value for value in [next(waiting, None)] if value is not None)]
        else:
            rest.append(argument)
    return front + rest


if __name__ == "__main__":
    run()
