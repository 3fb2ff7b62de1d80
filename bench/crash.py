"""Kill -9 the tiny demonstration again and again, and see that nothing is lost or doubled.

Each round starts a fresh home and kills the process at a few points in their order: right after a
stage, in the middle of one, and at a random write of the chain. Then it lets the demonstration end
and counts everything on chain and in the books (`bench.crash_totals`). What any two homes must hold
alike is compared with an uninterrupted run's. A kill may come so late that the next point has
passed: that one is left out and not counted. A round whose demonstration failed of itself counts as
one that differs. `--rounds N` sets how many; `--smoke` does one, of two kills.
"""

import argparse
import math
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Sequence
from contextlib import closing
from pathlib import Path

import msgspec

if not __package__:  # started by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.crash_totals import Totals, count, ledger
from bench.table import Row, at_least, at_most, options, run
from openledger.settings import load
from openledger.storage.home import Home
from openledger.wiring.platform import open_platform

_NAMED_KILLS, _RANDOM_KILLS = 3, 1  # of each round
_LEAST_LANDED = 0.75  # of the kills; a kill before may come late and pass a point
_POLL_S = 0.005
_TIMEOUT_S = 300.0


class Point(msgspec.Struct, frozen=True):
    """Where to kill: once a stage has ended, or as soon as a query of the home says 1."""

    name: str
    stage: str | None = None
    query: str = ""
    arguments: tuple[str | int, ...] = ()
    is_on_chain: bool = False  # the query is for the chain's database, not the home's


def _after(stage: str) -> Point:
    return Point(f"after {stage}", stage=stage)


def _mined(label: str, number: int) -> Point:
    query = "SELECT count(*) >= ? FROM outbox WHERE label = ? AND block IS NOT NULL"
    return Point(f"{label} {number} is mined", query=query, arguments=(number, label))


def _queued(label: str) -> Point:
    query = "SELECT count(*) > 0 FROM outbox WHERE label = ?"
    return Point(f"{label} is queued", query=query, arguments=(label,))


def _block(number: int) -> Point:
    query = "SELECT max(number) >= ? FROM blocks"
    return Point(f"block {number}", query=query, arguments=(number,), is_on_chain=True)


# In the order of the story: a point that has passed never comes again. A range stands for the
# writes of these blocks, of which one is drawn; it keeps clear of the points beside it.
STORY = (
    range(2, 8),  # the contracts are half deployed
    _mined("Datanets.commit", 2),
    range(12, 16),
    _mined("Datanets.approve", 1),
    _after("contribute tiny-tunes"),
    range(21, 25),  # a run begins and gets its seed
    Point("a few steps are trained", query="SELECT count(*) > 0 FROM training_runs"
          " WHERE json_extract(metrics, '$.stage') = 'training' AND step >= 3"),
    Point("the attribution is being built", query="SELECT count(*) > 0 FROM training_runs"
          " WHERE json_extract(metrics, '$.stage') = 'building attribution'"),
    _after("train tiny-tunes"),
    _queued("Models.release"),
    _after("publish openledger/tiny-tunes"),
    range(26, 27),  # the faucet has given, nothing is deposited
    _mined("Escrow.deposit", 1),
    _after("deposit"),
    Point("a call is being answered", query="SELECT count(*) > 0 FROM holds WHERE state = 'open'"),
    Point("a call is charged, not attributed", query="SELECT (SELECT count(*) FROM call_receipts)"
          " > max(2, (SELECT count(*) FROM statements))"),
    _after("call 4"),
    Point("the epoch is closed", query="SELECT count(*) > 0 FROM epochs"),
    _mined("Escrow.settle", 1),
    _queued("Payouts.activate"),
    range(30, 31),  # the payouts count, nobody has claimed
    _after("settle"),
    _mined("Payouts.claim", 1),
    Point("a claim is noted", query="SELECT count(*) > 0 FROM claims"),
    _after("claim"),
)  # fmt: skip
NAMED = {point.name: point for point in STORY if isinstance(point, Point)}


class Round(msgspec.Struct, frozen=True):
    """How one round went; without totals it was unsound."""

    landed: int
    totals: Totals | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 1 when a target was missed."""
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    return run(measure, parser.parse_args(arguments))


def measure(chosen: argparse.Namespace) -> list[Row]:
    """All rows."""
    rounds = 1 if chosen.smoke else chosen.rounds
    named = 1 if chosen.smoke else _NAMED_KILLS
    chance = random.Random(chosen.seed)  # noqa: S311 - when to kill is no secret
    landed = different = 0
    with tempfile.TemporaryDirectory(prefix="openledger-crash-") as scratch:
        expected = finish(Path(scratch) / "reference")
        for number in range(rounds):
            points = plan(chance, chance.sample(sorted(NAMED), named), _RANDOM_KILLS)
            found = play(Path(scratch) / f"round-{number}", points)
            landed += found.landed
            if found.totals != expected:
                different += 1
                print(f"round {number} differs: {[one.name for one in points]}", file=sys.stderr)
    planned = rounds * (named + _RANDOM_KILLS)
    return [
        Row("rounds", rounds, "rounds"),
        Row("kills planned", planned, "kills"),
        at_least("kills that landed", landed, "kills", math.ceil(planned * _LEAST_LANDED)),
        at_most("rounds that differ or are unsound", different, "rounds", 0),
    ]


def plan(chance: random.Random, names: Collection[str], writes: int) -> list[Point]:
    """These named points, and as many random writes, in the order of the story."""
    drawn = chance.sample([one for one in STORY if isinstance(one, range)], writes)
    chosen = [
        one for one in STORY if one in drawn or (isinstance(one, Point) and one.name in names)
    ]
    return [one if isinstance(one, Point) else _block(chance.choice(one)) for one in chosen]


def play(home: Path, points: Sequence[Point]) -> Round:
    """Kill the demonstration at those points that have not passed, then let it end and count."""
    landed = 0
    try:
        for point in points:
            if is_reached(home, point):  # the kill before came late
                print(f"{point.name} has passed", file=sys.stderr)
                continue
            kill_at(home, point)
            landed += 1
        return Round(landed, finish(home))
    except AssertionError as error:
        print(f"this round is unsound: {error}", file=sys.stderr)
        return Round(landed, None)


def killed(home: Path, points: Sequence[Point]) -> Totals:
    """Kill the demonstration at each of these points, then let it end and count.

    Raises:
        AssertionError: a kill did not land, the demonstration failed, or the home is unsound.
    """
    for point in points:
        kill_at(home, point)
    return finish(home)


def kill_at(home: Path, point: Point) -> None:
    """Start the demonstration and kill it at a point that it has not reached yet.

    Raises:
        AssertionError: it ended of itself before, or the point had passed already.
    """
    with tempfile.TemporaryFile() as said:
        assert not is_reached(home, point), f"{point.name} has passed"
        process = subprocess.Popen(_command(home), stdout=subprocess.PIPE, stderr=said)
        # Nothing below waits for ever: a hung demonstration is killed, and told as one that ended.
        guard = threading.Timer(_TIMEOUT_S, process.terminate)
        guard.start()
        try:
            _wait(process, home, point)
        finally:
            process.send_signal(signal.SIGKILL)
            status = process.wait()
            guard.cancel()
            assert process.stdout is not None
            process.stdout.close()
        said.seek(0)
        assert status == -signal.SIGKILL, (
            f"the demonstration ended with {status} before the kill at {point.name!r}:"
            f" {said.read().decode()}"
        )


def finish(home: Path) -> Totals:
    """Let the demonstration end, and count.

    Raises:
        AssertionError: it failed, or its books do not agree with the chain.
    """
    done = subprocess.run(_command(home), capture_output=True, text=True, timeout=_TIMEOUT_S)
    assert done.returncode == 0, f"the demonstration ended with {done.returncode}: {done.stderr}"
    with open_platform(load({"home": {"path": str(home)}, "models": {"base": "tiny"}})) as platform:
        unequal = {what: pair for what, pair in ledger(platform).items() if pair[0] != pair[1]}
        assert not unequal, f"books and chain differ: {unequal}"
        return count(platform)


def _wait(process: subprocess.Popen[bytes], home: Path, point: Point) -> None:
    """Until the point is reached or the process has ended."""
    if point.stage is None:
        while process.poll() is None and not is_reached(home, point):
            time.sleep(_POLL_S)
        return
    assert process.stdout is not None
    for line in process.stdout:
        if msgspec.json.decode(line).get("stage") == point.stage:
            return


def is_reached(home: Path, point: Point) -> bool:
    """Whether a query of the home says so; of the end of a stage none does."""
    known = Home(home)
    path = known.chain / "chain.db" if point.is_on_chain else known.database
    if not point.query or not path.exists():
        return False
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            [found] = connection.execute(point.query, point.arguments).fetchone()
    except sqlite3.OperationalError:  # its tables are being made
        return False
    return bool(found)


def _command(home: Path) -> list[str]:
    module = "openledger.cli.main"
    return [sys.executable, "-m", module, "--json", "--home", str(home), "demo", "--tiny"]


if __name__ == "__main__":
    sys.exit(main())
