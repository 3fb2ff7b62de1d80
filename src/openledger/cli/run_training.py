"""`openledger run`: train an adapter on Datanets, merge releases into one, watch, list runs."""

import time
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
import typer

from openledger.cli.context import Context, of
from openledger.cli.output import table, told

if TYPE_CHECKING:
    from openledger.operations.models import RunView
    from openledger.operations.operation import Operation

Arguments = TypeVar("Arguments", bound=msgspec.Struct)

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
        _perform(here, START, NewRun(tuple(datanet), name, name, builder, choice))


@app.command(
    epilog='Example: openledger run merge "mix:me/tunes*0.6+you/reels@2*0.4" --name both --as me'
)
def merge(  # noqa: PLR0913 - one option a choice of the builder
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A mix of releases, as a call would name it.")],
    name: Annotated[str, typer.Option(help="A name for the run.")],
    builder: Annotated[str, typer.Option("--as", help="Account that builds.")] = "operator",
    way: Annotated[str, typer.Option(help="svd, ties or dare.")] = "svd",
    rank: Annotated[int, typer.Option(help="Rank of the new adapter.")] = 16,
    density: Annotated[
        float, typer.Option(help="Of ties and dare: the part of each release that is kept.")
    ] = 0.5,
) -> None:
    """Make one new adapter of several releases, without training; their builders share its fees."""
    from openledger.core.errors import InvalidInputError
    from openledger.core.types import BASIS_POINTS
    from openledger.operations.models import MERGE, NewMerge

    with told((here := of(context)).output):
        if not 0 < density <= 1:
            raise InvalidInputError(f"a density is above 0 and at most 1, not {density}")
        kept = round(density * BASIS_POINTS)
        _perform(here, MERGE, NewMerge(model, name, name, builder, way, rank, kept))


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


def _perform(here: Context, operation: "Operation[Arguments, RunView]", new: Arguments) -> None:
    if here.server() is None:
        _work_here(here, operation, new)
    else:
        made = here.act(operation, new)
        here.output.result(made, f"run {made.name} is queued; openledger run watch {made.name}")


def _work_here(here: Context, operation: "Operation[Arguments, RunView]", new: Arguments) -> None:
    from openledger.operations.models import WhichRun
    from openledger.web.operations.models import show_run
    from openledger.web.operations.registry import run
    from openledger.web.work import worker_of
    from openledger.wiring.platform import open_platform

    with open_platform(here.settings) as platform:
        made = run(platform, operation, new)
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
    merged = metrics.get("merge")
    if run.state != "trained":
        why = f": {run.error}" if run.error else ""
        again = "" if run.retry_at is None else f"; {_RETRIED}"
        return f"run {run.name} is {run.state}{why}{again}"
    how = "trained" if merged is None else f"merged, {_lost(merged)}"
    return (
        f"run {run.name} is {how}: held-out perplexity {metrics['base_perplexity']:.1f} -> "
        f"{metrics['perplexity']:.1f} on {metrics['held_out_tokens']} tokens, "
        f"{metrics['contributors']} contributors; publish it with\n"
        f"  openledger model publish {run.name} --name OWNER/NAME"
    )


def _lost(merged: dict[str, Any]) -> str:
    """What each member added, and what the cut to the rank left out."""
    added = ", ".join(
        f"{one['name']} adds {one['added_micronats'] / 1e6:.2f} nats a token"
        for one in merged["members"]
    )
    return f"{added}; the cut to rank {merged['rank']} left {merged['lost_ppm'] / 1e4:.1f} % out"
