"""The demonstration in this process, and what a user does with the home it leaves."""

import json
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from typer.testing import CliRunner, Result

from openledger.cli.demo.script import TINY
from openledger.cli.main import app
from openledger.core.types import Account, Digest, as_bytes
from openledger.datanet.chunk import text_digest
from openledger.datanet.sources import tiny
from openledger.storage.home import Home, read_server
from openledger.training.rows import Example
from openledger.training.split import split_by_key

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

MODEL = "openledger/tiny-tunes"
PPB = 10**9


class Told(NamedTuple):
    """A home after two tellings, and the last object of each."""

    home: Path
    first: dict[str, Any]
    second: dict[str, Any]


def run(home: Path, *arguments: str, talks: bool = False) -> Result:
    environment = {
        "OPENLEDGER_HOME__CACHE": str(home.parent / "cache"),
        "OPENLEDGER_MODELS__BASE": "tiny",
        "OPENLEDGER_MODELS__THREADS": "1",
        "OPENLEDGER_SERVE__PORT": "0",
    }
    options = ["--home", str(home), *([] if talks else ["--json"])]
    return CliRunner().invoke(app, [*options, *arguments], env=environment)


def last(home: Path, *arguments: str) -> dict[str, Any]:
    """The last object of a command that succeeds."""
    result = run(home, *arguments)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert isinstance(found, dict)
    return found


def stopped_when(ready: Callable[[], bool], act: Callable[[], None]) -> threading.Thread:
    """Act once `until_interrupted` listens, then press Ctrl-C."""
    before, main = signal.getsignal(signal.SIGTERM), threading.get_ident()

    def wait_and_stop() -> None:
        while signal.getsignal(signal.SIGTERM) is before or not ready():
            time.sleep(0.02)
        try:
            act()
        finally:
            signal.pthread_kill(main, signal.SIGTERM)

    thread = threading.Thread(target=wait_and_stop)
    thread.start()
    return thread


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    home = tmp_path_factory.mktemp("demo") / "home"
    first = last(home, "demo", "--tiny")
    return Told(home, first, last(home, "demo", "--tiny"))


@pytest.fixture
def home(told: Told, tmp_path: Path) -> Path:
    """A copy, to do with as one likes."""
    return Path(shutil.copytree(told.home, tmp_path / "home"))


def test_the_last_object_tells_the_whole_story(told: Told) -> None:
    found = told.first

    assert found["identity"] == {"holds": True}
    assert found["epoch"] == 1
    assert (found["datanet"], found["others"]) == ("tiny-tunes", [])
    assert found["perplexity"]["adapter"] < found["perplexity"]["base"]
    assert len(found["calls"]) == 5
    for call in found["calls"]:
        assert sum(call["shares"].values()) + call["nobody"] == PPB
        assert int(call["fee"]) > 0
    assert found["claims"]
    assert all(int(amount) > 0 for amount in found["claims"].values())
    assert 0 < found["first_answer_seconds"] <= found["seconds"]


def test_contributors_are_those_whose_tunes_the_seed_left_to_train_on(told: Told) -> None:
    [trained] = last(told.home, "run", "list")["runs"]
    examples = [
        Example(text_digest(tune.text), 0, Account(contributor.name), tune.text, tune.key)
        for contributor in tiny.contributors()
        for tune in contributor.documents
    ]
    left = split_by_key(examples, as_bytes(Digest(trained["seed"])), TINY.held_out_bps).training

    assert told.first["contributors"] == len({one.account for one in left})
    assert trained["metrics"]["training_documents"] == len(left)


def test_a_second_telling_charges_and_pays_nothing_twice(told: Told) -> None:
    for same in ("calls", "claims", "epoch", "identity", "perplexity", "contributors"):
        assert told.second[same] == told.first[same]
    assert told.second["first_answer_seconds"] is None  # nobody was answered anew
    with closing(sqlite3.connect(Home(told.home).database)) as connection:
        assert connection.execute("SELECT count(*) FROM api_keys").fetchone() == (1,)


def test_a_receipt_of_the_demo_is_checked_in_an_empty_home(told: Told, tmp_path: Path) -> None:
    bundle, anchors = tmp_path / "receipt.json", tmp_path / "anchors.json"
    receipt = told.first["calls"][0]["receipt"]
    shown = last(told.home, "receipt", "show", receipt, "--bundle", str(bundle))
    epoch = last(told.home, "epoch", "show", "--anchors", str(anchors))
    empty = tmp_path / "empty"
    alone = last(empty, "receipt", "verify", str(bundle))
    held = last(empty, "receipt", "verify", str(bundle), "--anchors", str(anchors))

    assert shown["fee"] == told.first["calls"][0]["fee"]
    assert epoch["size"] == 5
    assert alone["receipt"] == held["receipt"] == receipt
    assert (alone["is_anchored"], held["is_anchored"]) == (False, True)
    assert not empty.exists()


def test_one_flipped_byte_of_a_bundle_fails_verification(told: Told, tmp_path: Path) -> None:
    bundle = tmp_path / "receipt.json"
    receipt = told.first["calls"][1]["receipt"]
    last(told.home, "receipt", "show", receipt, "--bundle", str(bundle))
    raw = bundle.read_bytes()
    for place in range(0, len(raw), len(raw) // 25):
        bundle.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        result = run(tmp_path / "empty", "receipt", "verify", str(bundle))
        assert result.exit_code == 6, f"byte {place}: {result.output}"


def test_the_home_of_the_demo_stands_up_to_every_look(told: Told) -> None:
    earned = sum(int(amount) for amount in told.first["claims"].values())
    accounts = last(told.home, "wallet", "balance")["accounts"]
    [trained] = last(told.home, "run", "list")["runs"]
    [release] = last(told.home, "model", "list")["releases"]

    assert len(last(told.home, "datanet", "show", "tiny-tunes")["contributions"]) == 4
    assert last(told.home, "datanet", "verify", "tiny-tunes")["contributions"] == 4
    assert sum(int(one["claimed"]) for one in accounts) == earned
    assert last(told.home, "epoch", "check")["holds"] is True
    assert trained["state"] == "trained"
    assert last(told.home, "run", "watch", trained["name"])["adapter"] == release["adapter"]
    assert last(told.home, "model", "show", MODEL)["number"] == release["number"]
    assert last(told.home, "doctor")["findings"]


def test_people_read_the_same_as_tables(told: Told) -> None:
    receipt = told.first["calls"][0]["receipt"]
    shown = run(told.home, "receipt", "show", receipt, talks=True)

    assert "settled in epoch 1" in shown.stdout
    assert "nobody's data" in shown.stdout
    for command in (
        ("epoch", "show"),
        ("run", "list"),
        ("run", "watch", "tiny-tunes"),
        ("model", "list"),
        ("model", "show", MODEL),
        ("datanet", "list"),
        ("datanet", "verify", "tiny-tunes"),
    ):
        result = run(told.home, *command, talks=True)
        assert result.exit_code == 0, result.output
        assert result.stdout.strip()


def test_receipts_of_a_deprecated_model_stay_valid(told: Told, home: Path, tmp_path: Path) -> None:
    bundle, anchors = tmp_path / "receipt.json", tmp_path / "anchors.json"
    gone = run(home, "model", "deprecate", f"{MODEL}@1", talks=True)
    receipt = told.first["calls"][2]["receipt"]
    last(home, "receipt", "show", receipt, "--bundle", str(bundle))
    last(home, "epoch", "show", "--anchors", str(anchors))
    report = last(tmp_path / "empty", "receipt", "verify", str(bundle), "--anchors", str(anchors))

    assert "is deprecated" in gone.stdout
    assert "(deprecated)" in run(home, "model", "show", f"{MODEL}@1", talks=True).stdout
    assert last(home, "model", "list")["releases"][0]["is_deprecated"] is True
    assert report["receipt"] == receipt


def test_a_run_started_by_hand_becomes_the_next_release(home: Path) -> None:
    start = ("run", "start", "tiny-tunes", "--name", "by-hand", "--epochs", "1", "--rank", "4")
    said = run(home, *start, talks=True)
    again = last(home, *start)
    made = last(home, "model", "publish", "by-hand", "--name", MODEL, "--input-price", "0.002")

    assert said.exit_code == 0, said.output
    assert "run by-hand is trained" in said.stdout
    assert again["state"] == "trained"
    assert made["name"] == f"{MODEL}@2"
    assert made["terms"]["price"]["input_1k"] == str(2 * 10**15)
    assert len(last(home, "run", "list")["runs"]) == 2


def test_commands_talk_to_the_server_that_owns_the_home(home: Path) -> None:
    """And a run that is started there is trained by the server."""
    seen: dict[str, Any] = {}

    def use() -> None:
        server = read_server(Home(home))
        assert server is not None
        seen["models"] = httpx.get(f"{server.url}/healthz").status_code
        seen["balance"] = last(home, "wallet", "balance")
        start = ("run", "start", "tiny-tunes", "--name", "served", "--epochs", "1")
        seen["queued"] = last(home, *start)["state"]
        seen["watched"] = run(home, "run", "watch", "served", talks=True)

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    thread = stopped_when(lambda: read_server(Home(home)) is not None, use)
    try:
        result = run(home, "serve", talks=True)
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])
    thread.join()

    assert result.exit_code == 0, result.output
    assert "stopping" in result.stderr
    assert seen["balance"]["accounts"]
    assert "run served is trained" in seen["watched"].stdout


def test_a_demo_that_serves_can_be_called_until_it_is_stopped(home: Path) -> None:
    seen: dict[str, Any] = {}

    def use() -> None:
        server = read_server(Home(home))
        assert server is not None
        seen["health"] = httpx.get(f"{server.url}/healthz", timeout=30).status_code

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    thread = stopped_when(lambda: read_server(Home(home)) is not None, use)
    try:
        result = run(home, "demo", "--tiny", "--serve", talks=True)
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])
    thread.join()

    assert result.exit_code == 0, result.output
    assert seen["health"] == 200
    assert "with the key" in result.stderr
    assert "What to try next" in result.stderr


def test_a_private_bundle_holds_too(told: Told, tmp_path: Path) -> None:
    receipt = told.first["calls"][3]["receipt"]
    bundle = tmp_path / "private.json"
    last(told.home, "receipt", "show", receipt, "--private", "--bundle", str(bundle))
    verified = run(tmp_path / "empty", "receipt", "verify", str(bundle), talks=True)

    assert verified.exit_code == 0, verified.output
    assert "give --anchors" in verified.stdout
