"""Kill -9 the tiny demonstration again and again, and see that nothing is lost or doubled.

Each round starts a fresh home and kills the process at a few points, some of them named (right
after a stage ended), some random; then it lets the demonstration finish and counts everything on
chain and in the books. The counts must equal those of an uninterrupted run. `--rounds N` sets how
many; `--smoke` does one.
"""

import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench.table import Row, options, report
from openledger.core.types import Wei
from openledger.settings import load
from openledger.storage.records.data import accounts, contributions, datanets
from openledger.storage.records.model import releases, runs
from openledger.storage.records.money import calls, epochs
from openledger.wiring.platform import Platform, open_platform

NAMED = ("contribute tiny-tunes", "train tiny-tunes", "publish openledger/tiny-tunes", "deposit",
         "call 1", "call 4", "settle", "claim")  # fmt: skip
_LATEST_S = 12.0  # a random kill comes at most so long after the start
_KILLS = 4
_FINISH_TIMEOUT_S = 300


class Totals(msgspec.Struct, frozen=True):
    """What must not depend on how often the process died."""

    datanets: int
    contributions: int
    begun_on_chain: int
    released_on_chain: int
    receipts: int
    deposited: Wei
    epochs: int
    is_all_settled: bool
    is_all_claimed: bool
    holds: bool


class Kill(msgspec.Struct, frozen=True):
    """When to kill: after a stage, or so many seconds after the start."""

    stage: str | None = None
    after_s: float = 0.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it."""
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    rounds = 1 if chosen.smoke else chosen.rounds
    chance = random.Random(chosen.seed)  # noqa: S311 - when to kill is no secret
    with tempfile.TemporaryDirectory(prefix="openledger-crash-") as scratch:
        expected = totals_of_uninterrupted(Path(scratch) / "reference")
        different = 0
        for number in range(rounds):
            home = Path(scratch) / f"round-{number}"
            kills = plan(chance)
            for kill in kills:
                run_until(home, kill)
            if finish(home) != expected:
                different += 1
                print(f"round {number} differs: {kills}", file=sys.stderr)
    row = Row("rounds whose totals differ", different, "rounds", "<= 0", different == 0)
    report(
        [Row("rounds", rounds, "rounds"), Row("kills", rounds * _KILLS, "kills"), row], chosen.json
    )


def plan(chance: random.Random) -> list[Kill]:
    """A few named kills in the order of the stages, and random ones."""
    places = sorted(chance.sample(range(len(NAMED)), _KILLS // 2))
    named = [Kill(stage=NAMED[place]) for place in places]
    return [*named, *(Kill(after_s=chance.uniform(0.2, _LATEST_S)) for _ in range(_KILLS // 2))]


def totals_of_uninterrupted(home: Path) -> Totals:
    """The totals of a demonstration that nobody kills."""
    return finish(home)


def run_until(home: Path, kill: Kill) -> bool:
    """Start the demonstration and kill it; False when it ended before that."""
    process = subprocess.Popen(_command(home), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    if kill.stage is None:
        time.sleep(kill.after_s)
    else:
        for line in process.stdout:
            if msgspec.json.decode(line).get("stage") == kill.stage:
                break
    was_alive = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    return was_alive


def finish(home: Path) -> Totals:
    """Let the demonstration end, and count."""
    subprocess.run(_command(home), check=True, stdout=subprocess.DEVNULL, timeout=_FINISH_TIMEOUT_S)
    settings = load({"home": {"path": str(home)}, "models": {"base": "tiny"}})
    with open_platform(settings) as platform:
        return _count(platform)


def _command(home: Path) -> list[str]:
    module = "openledger.cli.main"
    return [sys.executable, "-m", module, "--json", "--home", str(home), "demo", "--tiny"]


def _count(platform: Platform) -> Totals:
    contracts = platform.acts.contracts
    gateway = platform.gateway.account
    with platform.database.transaction() as transaction:
        known = datanets.list_all(transaction)
        rows = [row for one in known for row in contributions.of_datanet(transaction, one.id)]
        receipts = sum(1 for _ in calls.in_order(transaction, gateway))
        closed = epochs.list_all(transaction, gateway)
        earned = epochs.earned_so_far(transaction, gateway)
        people = accounts.list_all(transaction)
        counted = (len(runs.list_all(transaction)), len(releases.list_all(transaction)))
    check = platform.check_identity.run(tuple(one.address for one in people))
    begun = contracts.read(int, "Models", "run_count")
    released = contracts.read(int, "Models", "release_count")
    assert counted == (begun, released), "books and chain count runs and releases alike"
    return Totals(
        datanets=contracts.read(int, "Datanets", "datanet_count"),
        contributions=contracts.read(int, "Datanets", "contribution_count") + len(rows),
        begun_on_chain=begun,
        released_on_chain=released,
        receipts=receipts,
        deposited=check.chain.deposited,
        epochs=contracts.read(int, "Escrow", "epoch_count", gateway),
        is_all_settled=sum(epoch.size for epoch in closed) == receipts,
        is_all_claimed=check.chain.paid
        == sum(earned.values()) - earned.get(contracts.deployment.payouts, 0),
        holds=check.holds,
    )


if __name__ == "__main__":
    main()
