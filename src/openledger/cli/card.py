"""How `openledger model card` prints a release's card for people."""

from openledger.attribution.card.figures import Figures, Interval, Measured, Nobody
from openledger.cli.output import short, table
from openledger.core.errors import VerificationError
from openledger.operations.models import CardView

_MEGABYTE = 1 << 20
_TITLES = ("LDS, contributors", "LDS, documents", "leave-one-out rank correlation", "payout error")


def check_card(card: CardView) -> None:
    """Hold what a server says of a release to the training root that it names.

    Raises:
        InvalidProofError: its commitment does not stand there.
        VerificationError: the release or its figures are others than those committed to.
    """
    stated = (card.base, card.adapter, card.measured, card.is_audited)
    proved: tuple[object, ...] = (card.base, card.adapter, None, False)
    if card.committed is not None:
        found = card.committed.summary(card.training_root)
        proved = (found.base, found.adapter, found.measured, found.is_audited)
    if stated != proved:
        raise VerificationError(f"the card of {card.name} is not the one under its training root")


def card_lines(card: CardView) -> str:
    """The whole card."""
    lines = [
        f"{card.name}, release {card.number} on chain, built by {short(card.builder)}",
        f"  base           {card.base}",
        f"  adapter        {card.adapter}",
        f"  training root  {card.training_root}",
        f"  run            {card.run} of {card.runs} begun by this builder",
        f"  self-supplied  {card.self_supplied_bps / 100:g} % of the text",
    ]
    if card.committed is not None:
        lines.append(
            "  proof          what follows is under the training root; compare that with the chain"
        )
    if card.measured is None:
        return "\n".join([*lines, "  attribution    not measured"])
    return "\n".join([*lines, *_measured(card.measured, is_audited=card.is_audited)])


def _nobody(found: Nobody | None) -> str:
    if found is None:
        return "  nobody AUC not measured: the adapter answers nothing to everyday questions"
    return (
        f"  nobody AUC {found.auc_milli / 1000:.2f}; of the data money "
        f"{found.paid_inside_milli / 10:.0f} % paid on those answers, "
        f"{found.paid_outside_milli / 10:.0f} % on {found.outside} to everyday questions"
    )


def _measured(found: Measured, *, is_audited: bool) -> list[str]:
    sizes, times = found.sizes, found.times
    asked = f"{found.held_out} held-out and {found.generated} generated answers"
    left_out = f", {found.left_out} without one contributor each" if found.left_out else ""
    audited = ("none",) * len(_TITLES) if found.audited is None else _column(found.audited)
    columns = zip(_TITLES, _column(found.influence), audited, strict=True)
    return [
        f"  attribution    method {found.method}, measured on {asked} against "
        f"{found.half_adapters} half-data adapters, {found.cluster_adapters} on halves of the "
        f"clusters{left_out}",
        f"  audited mode   {'on request' if is_audited else 'none'}",
        "",
        table(["measure (95 % interval)", "every call", "audited"], [[*row] for row in columns]),
        "",
        _nobody(found.nobody),
        f"  {sizes.documents} documents in {sizes.clusters} clusters of {sizes.contributors} "
        f"contributors; state {sizes.attribution_bytes / _MEGABYTE:.1f} MiB, "
        f"half-data adapters {sizes.adapter_bytes / _MEGABYTE:.1f} MiB",
        f"  CPU time: {times.adapters_s} s to train those adapters, {times.attribution_ms} ms to "
        f"attribute an answer, {times.audit_ms} ms more to audit it",
    ]


def _column(figures: Figures) -> tuple[str, ...]:
    found = (
        figures.lds_contributor,
        figures.lds_document,
        figures.leave_one_out,
        figures.payout_error,
    )
    return tuple(_interval(one) for one in found)


def _interval(found: Interval | None) -> str:
    if found is None:
        return "not measured"
    mean, low, high = (v / 1000 for v in (found.mean_milli, found.low_milli, found.high_milli))
    return f"{mean:.2f} ({low:.2f} to {high:.2f})"
