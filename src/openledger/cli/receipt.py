"""`openledger receipt`: show a receipt, and check one alone."""

from enum import StrEnum
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Annotated

import typer

from openledger.cli.context import of
from openledger.cli.output import open_amount, percent, short, table, told
from openledger.core.errors import InvalidInputError

if TYPE_CHECKING:
    from openledger.flows.money.verify.audit import Audit
    from openledger.operations.receipts import ReceiptView

_ANCHORS = "What you know from the chain: see `openledger epoch show --anchors`."
_RELEASE = "A folder written by `openledger model export`."
_BASE = "The base model's folder; by default the one of its digest in this machine's cache."


class Level(StrEnum):
    """How deep a check goes."""

    PUBLIC = "1"
    FULL = "full"
    MODEL = "2"
    AUDIT = "3"


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
    rows: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Open query vectors, and the rows of so many clusters: for parties and auditors.",
        ),
    ] = None,
    draw: Annotated[str, typer.Option(help="Your own word, by which those are drawn.")] = "",
) -> None:
    """Show a receipt; with --bundle, write it for a checker."""
    from openledger.core.errors import UnavailableError
    from openledger.operations.receipts import PENDING, SHOW, ShowReceipt

    with told((here := of(context)).output):
        found = here.act(SHOW, ShowReceipt(receipt, private, rows, draw))
        if bundle is not None:
            if not found.bundle:
                raise UnavailableError("the attribution is not done yet; try again in a moment")
            bundle.write_bytes(found.bundle)
            here.output.talk(f"wrote {bundle}; check it with: openledger receipt verify {bundle}")
        lines = [
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
        members = [*(_members(found) if len(found.members) > 1 else []), *_parents(found)]
        nobody = f"nobody's data: {percent(found.nobody_ppb)} of the data money, to commons"
        parts = [table(["role", "who", "OPEN", "share"], lines), nobody]
        if found.state == PENDING:
            parts = ["whose data made it is not known yet; look again in a moment"]
        here.output.result(found, "\n".join([head, *members, *found.notes, *parts]))


def _members(found: "ReceiptView") -> list[str]:
    return [
        f"  {one.name} added {_nats(one.added_micronats)} nats and earns "
        f"{percent(one.part_ppb)} of builder and data money"
        for one in found.members
        if one.added_micronats is not None and one.part_ppb is not None
    ]


def _parents(found: "ReceiptView") -> list[str]:
    """What each release that a merge was made from added."""
    return [
        f"  of {one.name} {parent.name} added {_nats(parent.added_micronats)} nats"
        for one in found.members
        for parent in one.parents
    ]


@app.command(epilog="Example: openledger receipt evidence rcp_ID")
def evidence(
    context: typer.Context,
    receipt: Annotated[str, typer.Argument(help="Receipt id, or the completion id of the answer.")],
    release: Annotated[
        str | None, typer.Option(help="Of a mix: whose documents, as `receipt show` names it.")
    ] = None,
) -> None:
    """Show the documents with the most influence on an answer, and passages that match it."""
    from openledger.operations.receipts import EVIDENCE, WhichEvidence

    with told((here := of(context)).output):
        found = here.act(EVIDENCE, WhichEvidence(receipt, release))
        rows = [
            [
                one.contributor or short(one.account),
                one.title,
                percent(one.share_ppb),
                percent(one.strength_ppb),
                ", ".join(str(passage.span + 1) for passage in one.passages),
            ]
            for one in found.documents
        ]
        names = ["contributor", "document", "paid share", "of the strongest", "passages"]
        spans = [
            f"  {place}. {span.words} words, in {span.holders}: {' '.join(span.text.split())}"
            for place, span in enumerate(found.spans, 1)
        ]
        parts = [found.basis, table(names, rows), found.matching, *spans, found.verdict]
        if found.withdrawn:
            parts.append(f"{found.withdrawn} contributions are withdrawn and not shown")
        here.output.result(found, "\n".join(parts))


@app.command(
    epilog="Example: openledger receipt verify receipt.json --anchors anchors.json --level 1"
)
def verify(  # noqa: PLR0913 - one option a choice of the checker
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A bundle written by `receipt show --bundle`.")],
    anchors: Annotated[Path | None, typer.Option(help=_ANCHORS)] = None,
    level: Annotated[
        Level, typer.Option(help="1: public; full: scores; 2: model and text; 3: retraining.")
    ] = Level.PUBLIC,
    release: Annotated[
        list[Path] | None, typer.Option(help=f"{_RELEASE} Of a mix: once for each.")
    ] = None,
    base: Annotated[Path | None, typer.Option(help=_BASE)] = None,
    parent: Annotated[
        list[Path] | None,
        typer.Option(
            help="Of a merge, at level 2: the folder of each release in it; it is redone."
        ),
    ] = None,
) -> None:
    """Check a receipt alone: no home, no network, no trust in the gateway."""
    from openledger.cli.checks import Checker

    with told((here := of(context)).output):
        if level is Level.AUDIT:
            raise InvalidInputError("level 3 retrains: run `openledger receipt audit`")
        if parent and level is not Level.MODEL:
            raise InvalidInputError("a merge is redone at level 2: add --level 2 to --parent")
        checker = Checker(here.settings, anchors, release or [], base, parent or [])
        report = checker.check(file, level)
        lines = [f"{report.receipt} holds, level {report.level}"]
        lines += [f"  ok  {check}" for check in report.checks]
        if not report.is_anchored:
            lines.append("  --  checked against itself only; give --anchors read from the chain")
        here.output.result(report, "\n".join(lines))


@app.command(
    epilog="Example: openledger receipt audit receipt.json --release tunes-for-audit --seeds 3"
)
def audit(  # noqa: PLR0913 - one option a choice of the auditor
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(help="Bundles with --private, of one release.")],
    release: Annotated[Path, typer.Option(help=f"{_RELEASE} With --texts.")],
    anchors: Annotated[Path | None, typer.Option(help=_ANCHORS)] = None,
    base: Annotated[Path | None, typer.Option(help=_BASE)] = None,
    leave_outs: Annotated[int, typer.Option(help="Contributors to leave out, one by one.")] = 4,
    seeds: Annotated[int, typer.Option(help="Trainings for each of them.")] = 2,
    draw: Annotated[
        str | None,
        typer.Option(help="A word of yours: which half-data adapter is trained again.  [random]"),
    ] = None,
) -> None:
    """Retrain without some contributors and compare with the shares (level 3); takes a while."""
    from openledger.cli.checks import Checker
    from openledger.flows.money.verify.audit import Retraining

    with told((here := of(context)).output):
        checker = Checker(here.settings, anchors, [release], base)
        choice = Retraining(leave_outs, seeds, token_hex(8) if draw is None else draw)
        found = checker.audit(files, choice, here.output.talk)
        here.output.result(found, _audit_lines(found, choice.word))


def _audit_lines(found: "Audit", word: str) -> str:
    rows = [
        [short(one.account), percent(one.share_ppb), _nats(one.effect_micronats)]
        for one in found.effects
    ]
    order = "-" if found.rank_correlation is None else f"{found.rank_correlation:.2f}"
    lines = [
        f"{found.receipts} receipts, {found.trainings} trainings: rank correlation {order}, "
        f"total variation {found.total_variation:.2f}",
        table(["left out", "share", "nats per token"], rows),
        f"rows made again from the texts give shares {percent(found.rebuilt_ppb)} apart; "
        f"{found.credited_otherwise} documents are credited otherwise than by these texts alone",
    ]
    if found.half is not None:
        lines.append(
            f"half-data adapter {found.half.number}, drawn by {word!r} and trained again, lies "
            f"{_nats(found.half.apart_micronats)} nats a token from the exported one, others "
            f"{_nats(found.half.usual_micronats)}"
        )
    return "\n".join(lines)


def _nats(micronats: int) -> str:
    return f"{micronats / 1_000_000:.4f}"
