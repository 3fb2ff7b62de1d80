"""What every test shares: one hypothesis profile, and the tests' market (see `tests/market.py`)."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from openledger.lm.tokenizer import Tokenizer
    from openledger.wiring.platform import Platform

# Machines differ: no example may fail for being slow. In CI every run tries the same examples.
settings.register_profile(
    "openledger",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("openledger")


@pytest.fixture(scope="session")
def market_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed home with a Datanet, its contributions, a release and a payer; copy it."""
    # Imported here: tests of single rooms need none of it.
    from tests.market import build_market

    home = tmp_path_factory.mktemp("market") / "home"
    build_market(home)
    return home


@pytest.fixture
def market(market_home: Path, tmp_path: Path) -> Iterator["Platform"]:
    """A copy of that home, opened; a test may do with it what it likes."""
    from tests.market import open_copy

    with open_copy(market_home, tmp_path / "home") as platform:
        yield platform


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> "Tokenizer":
    """The tiny base model's."""
    from openledger.lm.base import load_base
    from openledger.lm.tiny import build_tiny

    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_tiny(folder)
    return load_base(folder).tokenizer
