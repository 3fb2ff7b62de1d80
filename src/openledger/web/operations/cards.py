"""The card of a release: what was measured on it, and how many runs it was chosen from."""

import msgspec

from openledger.attribution.card.figures import Audit, Measured
from openledger.core.ids import parse_release_name
from openledger.core.types import Account, Digest
from openledger.storage.records.model import releases, runs
from openledger.web.operations.models import Which
from openledger.web.operations.operation import Operation
from openledger.wiring.platform import Platform


class CardView(msgspec.Struct, frozen=True):
    """A card; bound to the release by the training root, under which all of `measured` stands."""

    name: str
    number: int | None
    builder: Account
    base: Digest
    adapter: Digest
    training_root: Digest
    run: int  # its place among the runs that this builder has begun on chain
    runs: int  # how many those are by now
    self_supplied_bps: int  # of the text trained on, how much the builder contributed
    is_audited: bool  # whether calls may ask for the audited mode
    measured: Measured | None  # None: not measured


def card(platform: Platform, which: Which) -> CardView:
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


CARD = Operation("model.card", Which, CardView, card)
