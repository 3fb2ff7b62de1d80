"""Kill -9 anywhere loses and doubles nothing."""

import os
import random
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from bench import crash
from bench.crash import NAMED, finish, kill_at, killed, plan
from openledger.storage.home import Home

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

# Draws the two random writes; CRASH_SEED=7 in the environment draws others.
_SEED = int(os.environ.get("CRASH_SEED", "6"))
_NAMES = (
    "a few steps are trained",
    "Models.release is queued",
    "after deposit",
    "a call is being answered",
    "a call is charged, not attributed",
    "Escrow.settle 1 is mined",
    "after settle",
    "Payouts.claim 1 is mined",
)


@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("seed", [_SEED], ids="CRASH_SEED={}".format)  # named when it fails
def test_ten_kills_change_no_total(tmp_path: Path, seed: int) -> None:
    points = plan(random.Random(seed), _NAMES, writes=2)

    assert len(points) == 10
    assert killed(tmp_path / "killed", points) == finish(tmp_path / "whole")


def test_a_demonstration_that_fails_of_itself_is_no_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", "raise SystemExit('the disk is full')"]
    monkeypatch.setattr(crash, "_command", lambda _: command)

    for name in ("after settle", "Escrow.settle 1 is mined"):
        with pytest.raises(AssertionError, match=r"before the kill at .*: the disk is full"):
            kill_at(tmp_path / "home", NAMED[name])
    with pytest.raises(AssertionError, match="ended with 1: the disk is full"):
        finish(tmp_path / "home")


def test_a_point_that_has_passed_is_no_kill(tmp_path: Path) -> None:
    with closing(sqlite3.connect(Home(tmp_path).database)) as connection:
        connection.executescript("CREATE TABLE epochs (number); INSERT INTO epochs VALUES (1)")

    with pytest.raises(AssertionError, match="has passed"):
        kill_at(tmp_path, NAMED["the epoch is closed"])
