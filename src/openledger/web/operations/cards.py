"""The card of a release: what was measured on it, and how many runs it was chosen from."""

import msgspec

from openledger.attribution.card.figures import Committed
from openledger.core.encoding import decode
from openledger.core.ids import parse_release_name
from openledger.operations.models import CARD, CardView, WhichRelease
from openledger.storage.records.model import releases, runs
from openledger.web.operations.implementation import Implementation
from openledger.wiring.platform import Platform


def card(platform: Platform, which: WhichRelease) -> CardView:
    """The card of one release."""
    from openledger.flows.model.train.plan import committed_card

    with platform.database.read() as transaction:
        release = releases.by_name(transaction, parse_release_name(which.name))
        run = runs.get(transaction, release.run)
    contracts = platform.acts.contracts
    begun = contracts.read(_Begun, "Models", "runs", run.number or 0).number
    metrics = msgspec.json.decode(run.metrics or b"{}", type=_Metrics)
    kept = committed_card(platform.home.run(run.op))
    committed = decode(kept.read_bytes(), Committed) if kept.is_file() else None
    summary = None if committed is None else committed.summary(release.training_root)
    return CardView(
        name=release.full_name,
        number=release.number,
        builder=release.builder,
        base=release.base,
        adapter=release.adapter,
        training_root=release.training_root,
        run=begun,
        runs=contracts.read(int, "Models", "runs_begun", release.builder),
        self_supplied_bps=metrics.self_supplied_bps,
        is_audited=summary is not None and summary.is_audited,
        measured=None if summary is None else summary.measured,
        committed=committed,
    )


class _Begun(msgspec.Struct, frozen=True):
    """What the contract says of a run."""

    number: int


class _Metrics(msgspec.Struct, frozen=True):
    """What of a run's metrics a card shows."""

    self_supplied_bps: int = 0


IMPLEMENTED = (Implementation(CARD, card),)
