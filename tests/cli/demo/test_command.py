"""Where the demonstration happens, and what it does when something is missing."""

from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from openledger.cli import run_training
from openledger.cli.context import Context
from openledger.cli.demo import calls, command, script
from openledger.cli.demo.calls import Caller
from openledger.cli.demo.story import Story
from openledger.cli.main import _globals_first
from openledger.cli.output import Output
from openledger.core.errors import ConflictError, HomeBusyError, UnavailableError
from openledger.core.types import Digest
from openledger.settings import HomeSettings
from openledger.storage.home import Home
from openledger.storage.records.model import runs
from openledger.web.operations import models
from openledger.web.operations.models import RunView
from openledger.web.server import serving
from openledger.wiring.platform import Platform
from tests import market as fair


def story(market: Platform) -> Story:
    return Story(market, Output(as_json=True, is_quiet=True), 0.0)


@pytest.mark.parametrize("is_tiny", [False, True])
def test_the_demo_has_a_home_of_its_own(is_tiny: bool) -> None:
    here = command._home_of(Context({}, as_json=True, is_quiet=False), is_tiny=is_tiny)

    assert here.settings.home.path == HomeSettings().path + ("-demo-tiny" if is_tiny else "-demo")
    assert (here.settings.models.base == "tiny") is is_tiny
    assert here.is_quiet


def test_a_home_that_was_named_is_taken(tmp_path: Path) -> None:
    flags: Mapping[str, Mapping[str, object]] = {"home": {"path": str(tmp_path)}}
    here = command._home_of(Context(flags, as_json=False, is_quiet=False), is_tiny=False)

    assert here.home == tmp_path
    assert f"--home {tmp_path}" in command._next(here, "rcp_1")


def test_all_means_three_datanets() -> None:
    assert [act.source for act in command._acts(everything=True, tiny=False)] == [
        "folk-music",
        "linux-manual",
        "breton",
    ]
    assert command._acts(everything=False, tiny=False) == [script.FOLK_MUSIC]
    assert command._acts(everything=True, tiny=True) == [script.TINY]


def test_starting_over_deletes_only_what_the_demo_made(tmp_path: Path) -> None:
    home = tmp_path / "home"
    command._prepare_home(home, is_fresh=True)
    (home / "left").write_text("over")
    command._prepare_home(home, is_fresh=False)
    assert (home / "left").exists()
    with Home(home).own(), pytest.raises(HomeBusyError):
        command._prepare_home(home, is_fresh=True)
    command._prepare_home(home, is_fresh=True)
    assert [one.name for one in home.iterdir()] == ["demo.json"]

    other = tmp_path / "other"
    other.mkdir()
    (other / "precious").write_text("mine")
    with pytest.raises(ConflictError, match="not made by the demo"):
        command._prepare_home(other, is_fresh=True)
    assert (other / "precious").exists()


def test_an_act_whose_data_is_not_to_be_had_is_left_out(
    market: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")

    assert story(market).make(script.LINUX_MANUAL) is False


@pytest.mark.slow
def test_training_that_stopped_says_why(market: Platform) -> None:
    act = msgspec.structs.replace(script.TINY, source="tiny", datanet=fair.DATANET)
    choice = models.RecipeChoice(held_out_bps=act.held_out_bps, scored_tunes=act.scored_tunes)
    key = f"demo{fair.DATANET}"
    made = models.start(market, models.NewRun((fair.DATANET,), fair.DATANET, key, choice=choice))
    found = market.home.run(_op(market, made.id)) / "manifest.json"
    found.write_bytes(b'{"rows":[]}')

    with pytest.raises(ConflictError, match="training stopped: the kept training manifest"):
        story(market)._train(act)


def _op(market: Platform, run_id: str) -> Digest:
    with market.database.read() as transaction:
        return runs.get(transaction, run_id).op


def test_a_call_that_is_refused_or_late_is_not_available(
    market: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(market, 0) as server:
        caller = Caller(server.url, "sk-ol-nobody")
        with pytest.raises(UnavailableError, match="was not answered"):
            caller.ask(fair.MODEL, script.TINY.questions[0], lambda _: None)
        monkeypatch.setattr(calls, "_ATTRIBUTION_TIMEOUT_S", 0.2)
        with pytest.raises(UnavailableError, match="takes too long"):
            caller.wait_for_attribution("rcp_none")


def test_how_a_run_ended_is_said() -> None:
    raw = msgspec.Raw(b"{}")
    view = RunView("r", "tunes", "failed", None, 1, None, 3, 9, 5, None, "the disk is full", raw)

    assert run_training._summary(view) == "run tunes is failed: the disk is full"
    assert run_training._progress(view) == "  failed 3/9, about 5 s left"
    waiting = msgspec.structs.replace(view, state="queued", error=None, seconds_left=None)
    assert run_training._summary(waiting) == "run tunes is queued"
    assert run_training._progress(waiting) == "  queued 3/9"


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        (["wallet", "balance", "--json"], ["--json", "wallet", "balance"]),
        (["demo", "--home", "x", "--tiny"], ["--home", "x", "demo", "--tiny"]),
        (["demo", "--chain=anvil"], ["--chain=anvil", "demo"]),
        (["demo", "--home"], ["--home", "demo"]),
        (["a", "--", "--json"], ["a", "--", "--json"]),
    ],
)
def test_global_options_may_stand_anywhere(typed: list[str], read: list[str]) -> None:
    assert _globals_first(typed) == read
