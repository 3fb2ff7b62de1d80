"""One settlement of very many receipts: its gas, and how long closing, settling and proving take.

In the home of a tiny demonstration one more payer makes paid calls, which are held, charged, signed
and stored like any other; only the model is not asked: every answer is the same few tokens, and
half of it is every contributor's alike. `--receipts` sets how many calls, at most as many as one
epoch takes; `--smoke` makes 200.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import func, select

if not __package__:  # started by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.table import Row, exactly, options, run
from openledger.attribution.attribute import AnswerAttribution
from openledger.attribution.method import CAP_PPB
from openledger.chain.outbox.rows import op_id
from openledger.core.types import WEI_PER_OPEN, Account, Digest, ReceiptId, Wei
from openledger.flows.money.attribute import Attribute
from openledger.flows.money.infer.charge import Ending, charge
from openledger.flows.money.infer.prepare import prepare
from openledger.flows.money.infer.request import CallRequest, Prepared
from openledger.flows.money.settle.flow import MOST_RECEIPTS
from openledger.flows.money.verify.public import verify_bundle
from openledger.operations.receipts import ShowReceipt
from openledger.settings import load
from openledger.settlement.shares import ClusterScore, DocumentScore, Gain, Segment
from openledger.storage.records.data import accounts
from openledger.storage.records.data.accounts import AccountKind
from openledger.storage.records.model import releases
from openledger.storage.records.money.epochs import EpochState
from openledger.storage.tables import outbox
from openledger.web.operations import receipts
from openledger.wiring.platform import Platform, now_us, open_platform

_SMOKE_RECEIPTS = 200
_DEPOSIT = Wei(1_000 * WEI_PER_OPEN)
_ANSWER = [1, 2, 3]


class Scorer:
    """Gives every contributor the same part of every answer."""

    def __init__(self, contributors: Sequence[Account]) -> None:
        clusters = tuple(
            ClusterScore(place, 100, 0, (DocumentScore(place, account, 100),))
            for place, account in enumerate(contributors)
        )
        gain = Gain(500_000, 1_000_000, CAP_PPB, 1)
        segment = Segment(len(_ANSWER), gain, Digest("0" * 64), clusters)
        self._scores = AnswerAttribution(None, gain.over_base_micronats, (segment,))

    def attribute(
        self,
        prompt_ids: Sequence[int],  # noqa: ARG002 - the protocol's
        answer_ids: Sequence[int],  # noqa: ARG002 - the protocol's
    ) -> tuple[AnswerAttribution, ...]:
        """The same for every answer."""
        return (self._scores,)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 1 when a target was missed."""
    parser = options(__doc__)
    parser.add_argument("--receipts", type=int, default=MOST_RECEIPTS)
    return run(measure, parser.parse_args(arguments))


def measure(chosen: argparse.Namespace) -> list[Row]:
    """All rows."""
    count = _SMOKE_RECEIPTS if chosen.smoke else chosen.receipts
    with tempfile.TemporaryDirectory(prefix="openledger-epoch-") as scratch:
        home = str(Path(scratch) / "home")
        command = [sys.executable, "-m", "openledger.cli.main", "--json", "--home", home, "demo"]
        subprocess.run([*command, "--tiny"], stdout=subprocess.DEVNULL, check=True)
        settings = load({"home": {"path": home}, "models": {"base": "tiny"}})
        with open_platform(settings) as platform:
            began = time.monotonic()
            made = _paid_calls(platform, count)
            making = Row("making the receipts", time.monotonic() - began, "s")
            return [making, *_settle(platform, count), *_prove(platform, made[count // 2])]


def _settle(platform: Platform, count: int) -> list[Row]:
    earlier, began_us = _settlements(platform), now_us()
    epoch = platform.settle.run()
    ended_us = now_us()
    op = op_id(EpochState.SETTLED.value, platform.gateway.account, epoch.number)
    [outcome] = platform.acts.outbox.outcomes([op])
    return [
        exactly("receipts in the epoch", epoch.size, "receipts", count),
        exactly("settlements on chain", _settlements(platform) - earlier, "", 1),
        Row("gas of Escrow.settle", outcome.gas_used, "gas"),
        Row("checking and closing", (epoch.created_at - began_us) / 1e6, "s"),
        Row("settling, once closed", (ended_us - epoch.created_at) / 1e6, "s"),
    ]


def _prove(platform: Platform, receipt: ReceiptId) -> list[Row]:
    began = time.monotonic()
    shown = receipts.show(platform, ShowReceipt(receipt))
    seconds = time.monotonic() - began
    proved = sum("settled epoch" in check for check in verify_bundle(shown.bundle, None).checks)
    return [
        Row("one receipt shown, with its proof", seconds, "s"),
        exactly("its bundle proves its epoch", proved, "", 1),
    ]


def _paid_calls(platform: Platform, count: int) -> list[ReceiptId]:
    payer = platform.account("user/bench", AccountKind.USER, "bench")
    platform.fund.faucet(payer.address, _DEPOSIT, "bench")
    platform.fund.deposit(payer, _DEPOSIT, "bench")
    with platform.database.read() as transaction:
        model = releases.list_served(transaction)[0].full_name
    desk, attribute = platform.models.desk, _attribute(platform)
    request = CallRequest(payer.address, model, "X:1\nT:The Open Door\n", max_tokens=len(_ANSWER))
    made = []
    for _ in range(count):
        prepared = prepare(desk, request)
        assert isinstance(prepared, Prepared), "it has no idempotency key"
        made.append(charge(desk, prepared, Ending(_ANSWER, "", "length")).receipt_id)
    attribute.run(made)
    return made


def _attribute(platform: Platform) -> Attribute:
    with platform.database.read() as transaction:
        known = accounts.list_all(transaction)
    scorer = Scorer([one.address for one in known if one.kind is AccountKind.ON_BEHALF])
    return Attribute(
        database=platform.database,
        gateway=platform.gateway,
        sealer=platform.sealer,
        scorer_of=lambda _, *, is_audited: scorer,  # noqa: ARG005 - the protocol's
        precision="float32",
        token=platform.acts.contracts.deployment.open_token,
        commons=platform.acts.contracts.deployment.payouts,
        platform=platform.treasury,
        clock=now_us,
    )


def _settlements(platform: Platform) -> int:
    query = select(func.count()).where(outbox.c.label == "Escrow.settle")
    with platform.database.read() as transaction:
        return transaction.connection.execute(query).scalar_one()


if __name__ == "__main__":
    sys.exit(main())
