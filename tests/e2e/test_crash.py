"""Kill -9 anywhere loses and doubles nothing."""

import random
from pathlib import Path

import pytest

from bench.crash import NAMED, Kill, finish, run_until, totals_of_uninterrupted

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(900)]


def test_ten_kills_change_no_total(tmp_path: Path) -> None:
    chance = random.Random(2)
    kills = [Kill(stage=name) for name in NAMED[:6]]
    kills += [Kill(after_s=chance.uniform(0.3, 9.0)) for _ in range(4)]

    for kill in kills:
        run_until(tmp_path / "killed", kill)

    assert finish(tmp_path / "killed") == totals_of_uninterrupted(tmp_path / "whole")
