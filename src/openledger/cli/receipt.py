"""`openledger receipt`: show a receipt, and check one alone."""

from pathlib import Path
from typing import Annotated

import typer

from openledger.cli.context import of
from openledger.cli.output import open_amount, percent, short, table, told

app = typer.Typer(no_args_is_help=True, help="Show what a call cost and whom it paid; check it.")


@app.command(epilog="Example: openledger receipt show rcp_ID --bundle receipt.json")
def show(
    context: typer.Context,
    receipt: Annotated[str, typer.Argument(help="Receipt id, or the completion id of the answer.")],
    bundle: Annotated[
        Path | None, typer.Option(help="Write all that a checker needs to this file.")
    ] = None,
    private: Annotated[
        bool,
        typer.Option(help="Open prompt, answer and payer in the bundle: for the parties only."),
    ] = False,
) -> None:
    """Show a receipt; with --bundle, write it for a checker."""
    from openledger.core.errors import UnavailableError
    from openledger.web.operations.receipts import PENDING, SHOW, ShowReceipt

    with told((here := of(context)).output):
        found = here.act(SHOW, ShowReceipt(receipt, is_private=private))
        if bundle is not None:
            if not found.bundle:
                raise UnavailableError("the attribution is not done yet; try again in a moment")
            bundle.write_bytes(found.bundle)
            here.output.talk(f"wrote {bundle}; check it with: openledger receipt verify {bundle}")
        rows = [
            [
                part.role,
                part.name or short(part.account),
                open_amount(part.amount),
                "" if part.share_ppb is None else percent(part.share_ppb),
            ]
            for part in found.parts
        ]
        state = f"settled in epoch {found.epoch}" if found.epoch else found.state
        head = f"{found.receipt}: {found.model}, {open_amount(found.fee)} OPEN, {state}"
        nobody = f"nobody's data: {percent(found.nobody_ppb)} of the data money, to commons"
        parts = [table(["role", "who", "OPEN", "share"], rows), nobody]
        if found.state == PENDING:
            parts = ["whose data made it is not known yet; look again in a moment"]
        here.output.result(found, "\n".join([head, *found.notes, *parts]))


@app.command(epilog="Example: openledger receipt verify receipt.json --anchors anchors.json")
def verify(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A bundle written by `receipt show --bundle`.")],
    anchors: Annotated[
        Path | None,
        typer.Option(help="What you know from the chain: see `openledger epoch show --anchors`."),
    ] = None,
) -> None:
    """Check a receipt alone: no home, no network, no trust in the gateway (level 1)."""
    from openledger.flows.money.verify import read_anchors, verify_bundle

    with told((here := of(context)).output):
        known = read_anchors(_read(anchors)) if anchors else None
        report = verify_bundle(_read(file), known)
        lines = [f"{report.receipt} holds, level {report.level}"]
        lines += [f"  ok  {check}" for check in report.checks]
        if not report.is_anchored:
            lines.append("  --  checked against itself only; give --anchors read from the chain")
        here.output.result(report, "\n".join(lines))


def _read(path: Path) -> bytes:
    from openledger.core.errors import NotFoundError

    if not path.is_file():
        raise NotFoundError(f"there is no file {path}")
    return path.read_bytes()
