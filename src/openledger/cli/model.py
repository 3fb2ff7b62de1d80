"""`openledger model`: release a trained run, list releases, look at one, deprecate it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from openledger.cli.context import of
from openledger.cli.output import moment, open_amount, short, table, told
from openledger.core.money import from_open

if TYPE_CHECKING:
    from openledger.operations.models import ReleaseView

_USAGE = (
    *("model", "alone", "in mixes", "tokens in", "tokens out"),
    *("OPEN fees", "to builder", "to parents", "to data", "pending", "refunded"),
)

app = typer.Typer(no_args_is_help=True, help="Release adapters and see what is released.")


@app.command(epilog="Example: openledger model publish first --name me/tunes --output-price 0.4")
def publish(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="Name or id of a trained run.")],
    name: Annotated[str, typer.Option(help="owner/name; the version is given by the platform.")],
    input_price: Annotated[str, typer.Option(help="OPEN per 1,000 input tokens.")] = "0.1",
    output_price: Annotated[str, typer.Option(help="OPEN per 1,000 output tokens.")] = "0.5",
    request_price: Annotated[str, typer.Option(help="OPEN per request.")] = "0.01",
) -> None:
    """Anchor a release with its base, data and terms; from then on it can be called."""
    from openledger.operations.models import PUBLISH, NewRelease
    from openledger.settlement.price import Price

    with told((here := of(context)).output):
        price = Price(from_open(input_price), from_open(output_price), from_open(request_price))
        made = here.act(PUBLISH, NewRelease(run, name, price))
        here.output.result(made, f"{made.name} is release {made.number} on chain")


@app.command("list", epilog="Example: openledger model list")
def list_all(context: typer.Context) -> None:
    """List the releases of this home."""
    from openledger.operations.models import LIST
    from openledger.operations.operation import Nothing

    with told((here := of(context)).output):
        found = here.act(LIST, Nothing())
        rows = [
            [
                one.name,
                open_amount(one.terms.price.input_1k),
                open_amount(one.terms.price.output_1k),
                f"{one.terms.policy.data / 100:g} %",
                "deprecated" if one.is_deprecated else "on sale",
            ]
            for one in found.releases
        ]
        here.output.result(
            found, table(["model", "OPEN/1k in", "OPEN/1k out", "to data", "state"], rows)
        )


@app.command(epilog="Example: openledger model show me/tunes")
def show(
    context: typer.Context, name: Annotated[str, typer.Argument(help="owner/name or owner/name@2.")]
) -> None:
    """Show a release: terms, digests, card."""
    from openledger.operations.models import SHOW, WhichRelease

    with told((here := of(context)).output):
        found = here.act(SHOW, WhichRelease(name))
        lines = [
            f"{found.name}, release {found.number} on chain, built by {short(found.builder)}"
            + (" (deprecated)" if found.is_deprecated else ""),
            f"  base          {found.base}",
            f"  adapter       {found.adapter}",
            f"  training root {found.training_root}",
            *_lineage(found),
            f"  card          {bytes(found.card).decode()}",
        ]
        here.output.result(found, "\n".join(lines))


@app.command(epilog="Example: openledger model card me/tunes")
def card(
    context: typer.Context, name: Annotated[str, typer.Argument(help="owner/name or owner/name@2.")]
) -> None:
    """Show how true a release's attribution is: measured against adapters without some data."""
    from openledger.cli.card import card_lines, check_card
    from openledger.operations.models import CARD, WhichRelease

    with told((here := of(context)).output):
        found = here.act(CARD, WhichRelease(name))
        check_card(found)
        here.output.result(found, card_lines(found))


@app.command(epilog="Example: openledger model deprecate me/tunes@1")
def deprecate(
    context: typer.Context, name: Annotated[str, typer.Argument(help="owner/name@version.")]
) -> None:
    """Offer a release no more; its old receipts stay valid."""
    from openledger.operations.models import DEPRECATE, WhichRelease

    with told((here := of(context)).output):
        found = here.act(DEPRECATE, WhichRelease(name))
        here.output.result(found, f"{found.name} is deprecated")


@app.command(epilog="Example: openledger model export me/tunes --out tunes-for-audit")
def export(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="owner/name or owner/name@2.")],
    out: Annotated[Path, typer.Option(help="A folder that is new or empty.")],
    texts: Annotated[
        bool, typer.Option(help="The training texts, too: for an audit that retrains (level 3).")
    ] = False,
) -> None:
    """Copy a release for a party or an auditor, all but its base; as secret as its texts."""
    from openledger.operations.models import EXPORT, NewExport

    with told((here := of(context)).output):
        made = here.act(EXPORT, NewExport(name, str(out.absolute()), texts))
        here.output.result(
            made,
            f"wrote {made.name} to {made.folder}: {made.files} files, {made.size_bytes} bytes; "
            "this opening of its attribution state is logged",
        )


@app.command(epilog="Example: openledger model openings me/tunes")
def openings(
    context: typer.Context, name: Annotated[str, typer.Argument(help="owner/name or owner/name@2.")]
) -> None:
    """List who opened a release's attribution state, which is encrypted at rest, and what for."""
    from openledger.operations.models import OPENINGS, WhichRelease

    with told((here := of(context)).output):
        found = here.act(OPENINGS, WhichRelease(name))
        rows = [
            [moment(one.opened_at), one.who or short(one.account), one.purpose, one.subject]
            for one in found.openings
        ]
        here.output.result(found, table(["when", "who", "what for", "subject"], rows))


@app.command(epilog="Example: openledger model usage me/tunes")
def usage(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(help="owner/name for all its versions, or owner/name@2; without: all."),
    ] = None,
) -> None:
    """Show how much releases are called and what they earned; a mix counts for each member."""
    from openledger.operations.models import USAGE, WhichUsage

    with told((here := of(context)).output):
        found = here.act(USAGE, WhichUsage(name))
        rows = [
            [
                one.name,
                *map(str, (one.alone, one.mixed, one.input_tokens, one.output_tokens)),
                *map(open_amount, (one.fees, one.builder, one.parent, one.data)),
                *map(str, (one.pending, one.refunded)),
            ]
            for one in found.releases
        ]
        here.output.result(found, table(_USAGE, rows))


def _lineage(release: "ReleaseView") -> list[str]:
    """What a release was merged from, and whose builders divide its parent part."""
    metrics = msgspec.json.decode(release.card).get("metrics", {})
    merged = metrics.get("merge")
    if merged is None:
        return []
    return [
        f"  merged from   {one['name']} * {one['weight_ppb'] / 1e9:g}, adds "
        f"{one['added_micronats'] / 1e6:.2f} nats a token, built by {parent['account']}"
        for one, parent in zip(merged["members"], metrics["parents"], strict=True)
    ]
