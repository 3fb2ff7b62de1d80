"""What every test shares: a hypothesis profile, a limit of time, the market (`tests/market.py`)."""

import math
import os
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from openledger.chain.devchain import evm

if TYPE_CHECKING:
    from openledger.lm.tokenizer import Tokenizer
    from openledger.wiring.platform import Platform
    from tests.audited import Files

# Of CPU time, for the call of a test without the mark `slow`. Coverage multiplies it by what the
# test runs through, so that a run which measures coverage lists its slowest tests instead.
MOST_SECONDS = 5.0 if sys.gettrace() is None else math.inf

SLOW_SECONDS = 600  # after which a test with the mark `slow` hangs, whatever else the machine does

# Machines differ: no example may fail for being slow. In CI every run tries the same examples.
settings.register_profile(
    "openledger",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("openledger")


@pytest.fixture(scope="session", autouse=True)
def _same_hashes() -> Iterator[None]:
    """Contracts see one hash for every block that has one.

    A seed drawn on chain follows from it, the contract's address and the run's number. The market
    has one set of keys, so what is trained in a copy of it is the same model in every run of the
    tests: no test passes or fails by what was drawn.
    """
    chain_class = evm._chain_class

    def predictable(chain_id: int) -> Any:  # noqa: ANN401 - a class that py-evm makes
        made = chain_class(chain_id)
        ((_, rules),) = made.vm_configuration
        state = rules.get_state_class()
        real = state.get_ancestor_hash

        def get_ancestor_hash(self: object, number: int) -> bytes:
            return sha256(b"any block").digest() if real(self, number) else b""

        rules._state_class = type("State", (state,), {"get_ancestor_hash": get_ancestor_hash})
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evm, "_chain_class", predictable)
        yield


@pytest.fixture(scope="session")
def market_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed home with a Datanet, its contributions, a release and a payer; copy it."""
    # Imported here: tests of single rooms need none of it.
    from tests.market import build_market

    home = tmp_path_factory.mktemp("market") / "home"
    build_market(home)
    return home


@pytest.fixture(scope="session")
def audited(
    market_home: Path, tokenizer: "Tokenizer", tmp_path_factory: pytest.TempPathFactory
) -> Iterator["Files"]:
    """The files of a release and a call that were really made, for checkers on other machines."""
    from tests.audited import build_audited
    from tests.market import open_copy

    root = tmp_path_factory.mktemp("audited")
    with open_copy(market_home, root / "home") as platform:
        yield build_audited(platform, tokenizer, root)


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


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """The same sums in the same order, however many threads an earlier test chose."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests that say they work long five times the time that ends one which hangs.

    The longest come first: what waits for the last of them would wait alone.
    """
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_SECONDS))
    items.sort(key=_patience, reverse=True)


def _patience(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0]) if marker else 0.0


@pytest.fixture(autouse=True)
def _untraced(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the processes of end-to-end tests out of coverage, which doubles what they cost.

    The lines that they run have tests of their own.
    """
    if request.node.get_closest_marker("e2e"):
        monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a test that worked long in this process and does not say so.

    A busy machine adds no CPU time. That of processes which a test starts is not counted.
    """
    began = time.process_time()
    yield
    check_quick(item, time.process_time() - began)


def check_quick(item: pytest.Item, seconds: float) -> None:
    """Fail when `seconds` of a test's call are too many for one without the mark `slow`."""
    if seconds > MOST_SECONDS and item.get_closest_marker("slow") is None:
        pytest.fail(
            f"{item.nodeid} took {seconds:.1f} s of CPU time, more than {MOST_SECONDS:g} s: "
            "make it quicker or mark it slow",
            pytrace=False,
        )
