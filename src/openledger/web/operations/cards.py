"""The card of a release: what was measured on it, and how many runs it was chosen from."""

import msgspec

from openledger.attribution.card.figures import Audit
from openledger.core.ids import parse_release_name
from openledger.operations.models import CARD, CardView, WhichRelease
from openledger.storage.records.model import releases, runs
from openledger.web.operations.implementation import Implementation
from openledger.wiring.platform import Platform


def card(platform: Platform, which: WhichRelease) -> CardView:
    """The card of one release."""
    with platform.database.read() as transaction:
        release = releases.by_name(transaction, parse_release_name(which.name))
        run = runs.get(transaction, release.run)
        begun = [one.number for one in runs.list_all(transaction, release.builder) if one.number]
    metrics = msgspec.json.decode(run.metrics or b"{}", type=_Metrics)
    audit = metrics.audit
    return CardView(
        name=release.full_name,
        number=release.number,
        builder=release.builder,
        base=release.base,
        adapter=release.adapter,
        training_root=release.training_root,
        run=1 + sum(number < (run.number or 0) for number in begun),
        runs=len(begun),
        self_supplied_bps=metrics.self_supplied_bps,
        is_audited=audit is not None and audit.calibration is not None,
        measured=None if audit is None else audit.measured,
    )


class _Metrics(msgspec.Struct, frozen=True):
    """What of a run's metrics a card shows."""

    self_supplied_bps: int = 0
    audit: Audit | None = None


IMPLEMENTED = (Implementation(CARD, card),)
