"""Where the demonstration happens, and what it does when something is missing."""

import errno
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import msgspec
import pytest

from openledger.cli import run_training
from openledger.cli.context import Context
from openledger.cli.demo import calls, command, script
from openledger.cli.demo.calls import Answer, Caller
from openledger.cli.demo.key import demo_key
from openledger.cli.demo.outcome import Perplexity
from openledger.cli.demo.story import Story, Told
from openledger.cli.main import _globals_first
from openledger.cli.output import Output
from openledger.core.errors import (
    ChainUnavailableError,
    ConflictError,
    HomeBusyError,
    SourceUnavailableError,
    StorageFullError,
    UnavailableError,
)
from openledger.core.types import WEI_PER_OPEN, Account, Digest, ReceiptId, Wei
from openledger.flows.model.train.flow import Metrics
from openledger.operations.datanets import Bring, ContributionView, DatanetView, WhichDatanet
from openledger.operations.models import NewRun, RecipeChoice, RunView, WhichRelease
from openledger.operations.operation import Nothing
from openledger.operations.receipts import PartView, ReceiptView
from openledger.operations.wallets import Prefix
from openledger.settings import HomeSettings
from openledger.storage.home import Home
from openledger.storage.records.data import accounts
from openledger.storage.records.model import runs
from openledger.web.operations import datanets, epochs, models, receipts, sources, wallets
from openledger.web.server import serving
from openledger.wiring.platform import Platform, now_us
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


def test_starting_over_goes_on_after_a_kill_while_it_deletes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    command._prepare_home(home, is_fresh=True)
    (home / "left").write_text("over")

    def killed(folder: Path, **_: object) -> None:
        if folder.exists():
            (folder / "demo.json").unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            command._prepare_home(home, is_fresh=True)
    command._prepare_home(home, is_fresh=True)

    assert [one.name for one in tmp_path.iterdir()] == ["home"]
    assert [one.name for one in home.iterdir()] == ["demo.json"]


def test_a_home_that_cannot_be_moved_starts_over_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a mount point: it is emptied in place, what names it the demo's own at last."""
    home = tmp_path / "home"
    command._prepare_home(home, is_fresh=True)
    (home / "left").write_text("over")
    (home / "runs" / "one").mkdir(parents=True)
    (home / "linked").symlink_to(tmp_path)

    def refuse(*_: object) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(Path, "rename", refuse)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        with pytest.raises(OSError, match="busy"):
            command._prepare_home(home, is_fresh=True)
    assert (home / "demo.json").exists()
    command._prepare_home(home, is_fresh=True)

    assert [one.name for one in home.iterdir()] == ["demo.json"]


def test_a_home_behind_a_link_starts_over_and_stays_linked(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    home = tmp_path / "home"
    home.symlink_to(tmp_path / "real")
    command._prepare_home(home, is_fresh=True)
    (home / "left").write_text("over")
    command._prepare_home(home, is_fresh=True)

    assert home.is_symlink()
    assert [one.name for one in home.iterdir()] == ["demo.json"]


def test_the_demo_speaks_before_it_loads_what_takes_long() -> None:
    code = (
        "import sys; from types import SimpleNamespace\n"
        "from openledger.cli.demo import command\n"
        "def talk(text): print(text, 'web3' in sys.modules, 'torch' in sys.modules); sys.exit()\n"
        "here = SimpleNamespace(output=SimpleNamespace(talk=talk), home='there', settings=None)\n"
        "acts = command._acts(everything=True, tiny=False)\n"
        "command._run(here, 0.0, acts, is_left_running=False)"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert found.stdout.startswith("Everything below happens in there")
    assert found.stdout.endswith("False False\n")


def test_an_act_whose_data_is_not_to_be_had_is_left_out_and_said_so(
    market: Platform, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")

    assert story(market).make(script.LINUX_MANUAL) is False
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["left_out"] == "linux-manual"
    assert told["code"] == "source_unavailable"
    assert "apt-get is not on this machine" in told["message"]


def test_a_demo_that_can_make_no_act_says_whose_data_is_missing(
    market: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")

    with pytest.raises(SourceUnavailableError, match="the Linux manual cannot be fetched"):
        story(market).make_all([script.LINUX_MANUAL, script.BRETON])


@pytest.mark.parametrize("error", [ChainUnavailableError, StorageFullError, HomeBusyError])
def test_nothing_else_that_is_not_available_leaves_an_act_out(
    market: Platform, monkeypatch: pytest.MonkeyPatch, error: type[UnavailableError]
) -> None:
    def bring(platform: Platform, wanted: Bring) -> NoReturn:
        raise error("not now")

    monkeypatch.setattr(sources, "bring", bring)

    with pytest.raises(error, match="not now"):
        story(market).make_all([script.TINY])


def test_every_telling_has_the_same_api_key_until_it_is_revoked(market: Platform) -> None:
    payer = fair.payer(market).address
    first = demo_key(market, payer)
    again = demo_key(market, payer)
    wallets.revoke_key(market, Prefix(first[: accounts.PREFIX_LENGTH]))
    other = demo_key(market, payer)

    assert again == first
    assert other != first
    with market.database.read() as transaction:
        assert len(accounts.keys_of(transaction, payer)) == 2
        assert accounts.authenticate(transaction, other, now_us()).account == payer


def test_a_streamed_answer_is_shown_piece_by_piece(
    market: Platform, capsys: pytest.CaptureFixture[str]
) -> None:
    heard = Story(market, Output(as_json=False, is_quiet=False), 0.0)
    silent = story(market)
    for piece in ("ab", "c\nd", "\x1b[2J"):
        heard._say(piece)
        silent._say(piece)

    assert capsys.readouterr() == ("", "abc\n   | d·[2J")


def test_a_call_that_streams_says_its_pieces_as_they_come(
    market: Platform, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []

    class Streaming(Caller):
        """Answers in two pieces, and looks at what is shown between them."""

        def ask(self, model: str, question: script.Question, hear: Callable[[str], None]) -> Answer:
            for piece in ("dfa", "f|"):
                hear(piece)
                shown.append(capsys.readouterr().err)
            return Answer("rcp_1", "dfaf|")

        def wait_for_attribution(self, receipt: str) -> None:
            """At once."""

    monkeypatch.setattr(receipts, "show", lambda *_: answer("rcp_1", Account("0x1")))
    streamed = next(one for one in script.TINY.questions if one.is_streamed)
    heard = Story(market, Output(as_json=False, is_quiet=False), 0.0)
    heard._call(Streaming("", "sk"), script.TINY, streamed)

    assert shown[0].endswith("K:A\n   | dfa")
    assert shown[1] == "f|"


@pytest.mark.parametrize("holds", [True, False])
def test_the_end_tells_of_every_act(
    market: Platform,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    holds: bool,
) -> None:
    people = {"folk-music": Account("0x1"), "breton": Account("0x2")}
    monkeypatch.setattr(datanets, "show", lambda _, which: datanet(which, people[which.name]))
    monkeypatch.setattr(models, "show_run", lambda _, which: run(which, len(which.name) / 2))
    monkeypatch.setattr(epochs, "show", lambda *_: SimpleNamespace(number=1))
    told = [
        Told(script.FOLK_MUSIC, (answer("rcp_1", people["folk-music"]),)),
        Told(script.BRETON, (answer("rcp_2", people["breton"]),)),
    ]
    check = msgspec.structs.replace(epochs.identity(market, Nothing()), holds=holds)
    outcome = Story(market, Output(as_json=False, is_quiet=False), 0.0).end(told, {}, check)

    said = capsys.readouterr().err
    assert re.findall(r"^(folk-music|breton):$", said, re.MULTILINE) == list(people)
    assert re.findall(r"^by (0x\d) +3 +1 +0\.5 ", said, re.MULTILINE) == ["0x1", "0x2"]
    assert (outcome.datanet, outcome.perplexity) == ("folk-music", Perplexity(9.5, 5.0))
    assert [(one.datanet, one.perplexity.adapter) for one in outcome.others] == [("breton", 3.0)]
    assert [call.receipt for call in outcome.calls] == ["rcp_1", "rcp_2"]
    assert outcome.identity.holds is holds


def answer(receipt: str, account: Account) -> ReceiptView:
    """A paid call that leaned on one contributor."""
    half = Wei(WEI_PER_OPEN // 2)
    part = PartView("data", f"by {account}", account, half, 10**9)
    return ReceiptView(
        receipt=ReceiptId(receipt),
        model=fair.MODEL,
        members=(),
        state="settled",
        fee=half,
        input_tokens=5,
        output_tokens=2,
        finish="stop",
        refund=None,
        nobody_ppb=0,
        notes=(),
        parts=(part,),
        epoch=1,
        bundle=b"",
    )


def datanet(which: WhichDatanet, account: Account) -> DatanetView:
    """A Datanet with one contributor."""
    given = ContributionView("c", 1, account, f"by {account}", True, "approved", 3, None)
    return DatanetView(
        name=which.name,
        title="",
        owner=account,
        number=1,
        licences=(),
        data_floor_bps=0,
        sequence=1,
        head=Digest(""),
        contributions=(given,),
    )


def run(which: WhichRelease, perplexity: float) -> RunView:
    """A trained run."""
    metrics = Metrics(
        base_perplexity=9.5,
        perplexity=perplexity,
        held_out_tokens=7,
        training_tokens=9,
        training_documents=2,
        contributors=1,
        epochs=1,
        steps=1,
        stopped_early=False,
        training_root=Digest(""),
        training_size=2,
        attribution_bytes=1,
    )
    raw = msgspec.Raw(msgspec.json.encode(metrics))
    return RunView("r", which.name, "trained", None, 1, None, 1, 1, 0, None, None, raw)


@pytest.mark.slow
def test_training_that_stopped_says_why(market: Platform) -> None:
    act = msgspec.structs.replace(script.TINY, source="tiny", datanet=fair.DATANET)
    choice = RecipeChoice(held_out_bps=act.held_out_bps, scored_tunes=act.scored_tunes)
    key = f"demo{fair.DATANET}"
    made = models.start(market, NewRun((fair.DATANET,), fair.DATANET, key, choice=choice))
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
    again = run_training._summary(msgspec.structs.replace(view, retry_at=7))
    assert again.startswith("run tunes is failed: the disk is full; it will be tried again")
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
