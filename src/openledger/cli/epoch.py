"""`openledger epoch`: settle receipts on chain, show what an epoch promises."""

from pathlib import Path
from typing import Annotated

import typer

from openledger.cli.context import of
from openledger.cli.output import open_amount, short, table, told

app = typer.Typer(no_args_is_help=True, help="Settle receipts on chain and see who is owed.")


@app.command(epilog="Example: openledger epoch settle")
def settle(context: typer.Context) -> None:
    """Draw the fees of all attributed receipts and promise them to those who earned them."""
    from openledger.operations.epochs import SETTLE
    from openledger.operations.operation import Nothing

    with told((here := of(context)).output):
        made = here.act(SETTLE, Nothing())
        here.output.result(
            made,
            f"epoch {made.number} is {made.state}: {made.size} receipts, "
            f"{open_amount(made.drawn)} OPEN drawn; openledger wallet claim",
        )


@app.command(epilog="Example: openledger epoch show 1 --anchors anchors.json")
def show(
    context: typer.Context,
    number: Annotated[int | None, typer.Argument(help="An epoch; none: the newest.")] = None,
    anchors: Annotated[
        Path | None, typer.Option(help="Write what `receipt verify --anchors` needs to this file.")
    ] = None,
) -> None:
    """Show an epoch with its payouts; anchors are read from the contracts."""
    from openledger.core.encoding import to_wire
    from openledger.operations.epochs import SHOW, WhichEpoch

    with told((here := of(context)).output):
        found = here.act(SHOW, WhichEpoch(number))
        if anchors is not None:
            anchors.write_bytes(to_wire(found.anchors))
            here.output.talk(f"wrote {anchors}")
        rows = [
            [one.name, short(one.account), open_amount(one.cumulative)] for one in found.payouts
        ]
        head = (
            f"epoch {found.number} is {found.state}: receipts {found.first} to "
            f"{found.first + found.size - 1}, {open_amount(found.drawn)} OPEN drawn, "
            f"root {short(found.root)}"
        )
        here.output.result(found, f"{head}\n{table(['who', 'account', 'OPEN ever'], rows)}")


@app.command(epilog="Example: openledger epoch check")
def check(context: typer.Context) -> None:
    """Check the money identity from chain and database, each summed up apart."""
    from openledger.core.errors import VerificationError
    from openledger.operations.epochs import IDENTITY
    from openledger.operations.operation import Nothing

    with told((here := of(context)).output):
        found = here.act(IDENTITY, Nothing())
        if not found.holds:
            raise VerificationError(f"the money identity is broken: {'; '.join(found.broken)}")
        here.output.result(
            found,
            f"the money identity holds: {open_amount(found.chain.deposited)} OPEN deposited, "
            f"{open_amount(found.chain.spent)} spent, {open_amount(found.chain.paid)} paid out",
        )
