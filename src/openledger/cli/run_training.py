"""`openledger run`: train an adapter on Datanets, watch it, list runs."""

import time
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from openledger.cli.context import Context, of
from openledger.cli.output import table, told

if TYPE_CHECKING:
    from openledger.operations.models import RunView

app = typer.Typer(no_args_is_help=True, help="Fine-tune an adapter on the data of Datanets.")

_POLL_S = 1.0
_RETRIED = "it will be tried again, by a server or by `openledger run start` with the same options"
_ENDED = ("trained", "failed", "cancelled")


@app.command(epilog="Example: openledger run start tunes --name first --as me")
def start(  # noqa: PLR0913 - one option a choice of the builder
    context: typer.Context,
    datanet: Annotated[list[str], typer.Argument(help="Datanets to train on.")],
    name: Annotated[str, typer.Option(help="A name for the run.")],
    builder: Annotated[str, typer.Option("--as", help="Account that builds.")] = "operator",
    epochs: Annotated[int | None, typer.Option(help="Times that every row is seen.")] = None,
    rank: Annotated[int | None, typer.Option(help="Rank of the adapter.")] = None,
    held_out: Annotated[int, typer.Option(help="Basis points of the text held out.")] = 1_000,
    card_adapters: Annotated[
        int, typer.Option(help="Half-data adapters to measure attribution with: 0, or 16 or more.")
    ] = 0,
    leave_out: Annotated[
        bool, typer.Option("--leave-out", help="Also train one adapter without each contributor.")
    ] = False,
) -> None:
    """Begin a run on chain and train it; with a server running, the server trains it."""
    from openledger.operations.models import START, NewRun, RecipeChoice

    with told((here := of(context)).output):
        choice = RecipeChoice(
            epochs=epochs,
            rank=rank,
            held_out_bps=held_out,
            card_adapters=card_adapters,
            leaves_out=leave_out,
        )
        # The same name is the same run, so that an interrupted one goes on.
        new = NewRun(tuple(datanet), name, name, builder, choice)
        if here.server() is None:
            _train_here(here, new)
        else:
            made = here.act(START, new)
            here.output.result(made, f"run {made.name} is queued; openledger run watch {made.name}")


@app.command(epilog="Example: openledger run watch first")
def watch(
    context: typer.Context, name: Annotated[str, typer.Argument(help="Name or id of the run.")]
) -> None:
    """Follow a run until it ends; leaving does not stop it."""
    from openledger.operations.models import SHOW_RUN, WhichRun

    with told((here := of(context)).output):
        found = here.act(SHOW_RUN, WhichRun(name))
        while found.state not in _ENDED and here.server() is not None:
            here.output.talk(_progress(found))
            time.sleep(_POLL_S)
            found = here.act(SHOW_RUN, WhichRun(name))
        here.output.result(found, _summary(found))


@app.command("list", epilog="Example: openledger run list")
def list_all(context: typer.Context) -> None:
    """List the runs of this home, the newest first."""
    from openledger.operations.models import LIST_RUNS
    from openledger.operations.operation import Nothing

    with told((here := of(context)).output):
        found = here.act(LIST_RUNS, Nothing())
        rows = [
            [run.name, run.stage or run.state, f"{run.step}/{run.steps}", str(run.number or "")]
            for run in found.runs
        ]
        here.output.result(found, table(["run", "state", "step", "on chain"], rows))


def _train_here(here: Context, new: msgspec.Struct) -> None:
    from openledger.operations.models import NewRun, WhichRun
    from openledger.web.operations.models import show_run, start
    from openledger.web.work import worker_of
    from openledger.wiring.platform import open_platform

    assert isinstance(new, NewRun)
    with open_platform(here.settings) as platform:
        made = start(platform, new)
        platform.models.tell = lambda step: here.output.talk(
            f"  {step.stage} {step.done}/{step.total}"
            + (f", loss {step.loss:.2f}" if step.loss is not None else "")
            + (f", {step.seconds_left:.0f} s left" if step.seconds_left is not None else "")
        )
        worker_of(platform).drain()
        ended = show_run(platform, WhichRun(made.id))
        here.output.result(ended, _summary(ended))


def _progress(run: "RunView") -> str:
    left = "" if run.seconds_left is None else f", about {run.seconds_left} s left"
    return f"  {run.stage or run.state} {run.step}/{run.steps}{left}"


def _summary(run: "RunView") -> str:
    metrics = msgspec.json.decode(run.metrics)
    if run.state != "trained":
        why = f": {run.error}" if run.error else ""
        again = "" if run.retry_at is None else f"; {_RETRIED}"
        return f"run {run.name} is {run.state}{why}{again}"
    return (
        f"run {run.name} is trained: held-out perplexity {metrics['base_perplexity']:.1f} -> "
        f"{metrics['perplexity']:.1f} on {metrics['held_out_tokens']} tokens, "
        f"{metrics['contributors']} contributors; publish it with\n"
        f"  openledger model publish {run.name} --name OWNER/NAME"
    )
