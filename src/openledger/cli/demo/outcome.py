"""What the demonstration says at its end, for programs and for people."""

from collections.abc import Sequence

import msgspec

from openledger.cli.output import open_amount, percent, table
from openledger.core.types import Account, Wei
from openledger.flows.model.train.flow import Metrics
from openledger.operations.datanets import ContributionView
from openledger.operations.receipts import ReceiptView


class Stage(msgspec.Struct, frozen=True):
    """A stage that ended, for --json."""

    stage: str
    seconds: float


class LeftOut(msgspec.Struct, frozen=True):
    """A Datanet whose data this machine cannot obtain, for --json."""

    left_out: str
    code: str
    message: str


class CallRecord(msgspec.Struct, frozen=True):
    """One call, for the last object of --json."""

    receipt: str
    fee: Wei
    shares: dict[str, int]  # account to parts per billion
    nobody: int


class Perplexity(msgspec.Struct, frozen=True):
    """On held-out text, before and after."""

    base: float
    adapter: float


class Held(msgspec.Struct, frozen=True):
    """Whether the money identity holds."""

    holds: bool


class Trained(msgspec.Struct, frozen=True):
    """One more Datanet of `--all` and what its model learned."""

    datanet: str
    model: str
    perplexity: Perplexity
    held_out_tokens: int
    training_tokens: int
    contributors: int


class Outcome(msgspec.Struct, frozen=True):
    """The last object of `openledger demo --json`."""

    seconds: float
    first_answer_seconds: float | None  # None: an earlier run's answer came again
    stages: dict[str, float]
    datanet: str  # the first one, which the next four fields are about
    perplexity: Perplexity
    held_out_tokens: int
    training_tokens: int
    contributors: int
    others: tuple[Trained, ...]
    calls: tuple[CallRecord, ...]  # of all Datanets
    epoch: int
    claims: dict[str, Wei]
    identity: Held


def record(view: ReceiptView) -> CallRecord:
    """One call in short."""
    shares = {part.account: part.share_ppb for part in view.parts if part.share_ppb is not None}
    return CallRecord(
        view.receipt, view.fee, {str(a): s for a, s in shares.items()}, view.nobody_ppb
    )


def trained(datanet: str, model: str, metrics: Metrics) -> Trained:
    """What one model learned."""
    return Trained(
        datanet=datanet,
        model=model,
        perplexity=Perplexity(metrics.base_perplexity, metrics.perplexity),
        held_out_tokens=metrics.held_out_tokens,
        training_tokens=metrics.training_tokens,
        contributors=metrics.contributors,
    )


def earnings(given: Sequence[ContributionView], answers: Sequence[ReceiptView]) -> str:
    """A Datanet's contributors, how often each was used and what it earned, best first."""
    used: dict[Account, int] = {}
    earned: dict[Account, int] = {}
    best: dict[Account, int] = {}
    for view in answers:
        for part in view.parts:
            if part.share_ppb:
                used[part.account] = used.get(part.account, 0) + 1
                earned[part.account] = earned.get(part.account, 0) + part.amount
                best[part.account] = max(best.get(part.account, 0), part.share_ppb)
    rows = [
        [
            one.name,
            str(one.chunks),
            str(used.get(one.contributor, 0)),
            open_amount(earned.get(one.contributor, 0)),
            _why_paid(best.get(one.contributor, 0)),
        ]
        for one in sorted(given, key=lambda one: -earned.get(one.contributor, 0))
    ]
    return table(["contributor", "texts", "answers", "OPEN", "why"], rows)


def _why_paid(best_ppb: int) -> str:
    if not best_ppb:
        return "no answer leaned on these texts above the noise"
    return f"made up to {percent(best_ppb)} of an answer"
