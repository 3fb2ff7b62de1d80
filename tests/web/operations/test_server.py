"""A home that is served: its owner's commands go through the server, nobody else's do."""

import json
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

from openledger.cli.main import app
from openledger.core.encoding import to_wire
from openledger.core.errors import NotFoundError, UnavailableError
from openledger.datanet.extract import File
from openledger.operations.datanets import Addition
from openledger.settings import ServeSettings
from openledger.storage.home import Home, read_server
from openledger.web.server import RunningServer, body_bytes, run_operation, serving
from openledger.wiring.platform import Platform, open_platform
from tests import market as fair

HEAVY = (
    *("torch", "numpy", "sqlalchemy", "alembic", "eth_account", "py_ecc", "web3"),
    *("fastapi", "httpx", "fsspec", "structlog"),
)
# They ask no server.
ALONE = ("demo", "serve", "doctor", "db", "receipt verify", "receipt audit")
ASKING = """
import json, sys
from typer.testing import CliRunner
from openledger.cli.main import app
home, heavy, lines = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
codes, loaded = {}, {}
for line in lines:
    result = CliRunner().invoke(app, ["--home", home, *line])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    codes[" ".join(line)] = result.exit_code
    for name in heavy:
        if name in sys.modules:
            loaded.setdefault(name, line)
print(json.dumps([codes, loaded]))
"""

ONE_MB = {"OPENLEDGER_SERVE__MAX_BODY_MB": "1"}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    home = tmp_path_factory.mktemp("served") / "home"
    serve = ServeSettings(hosts=("Models.example",), max_body_mb=1, stop_timeout_s=1)
    with open_platform(msgspec.structs.replace(fair.settings(home), serve=serve)) as opened:
        yield opened


@pytest.fixture(scope="module")
def server(platform: Platform) -> Iterator[RunningServer]:
    with serving(platform, 0) as running:
        yield running


def post(server: RunningServer, name: str, body: bytes, token: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"}
    url = f"{server.url}/api/operations/{name}"
    return httpx.post(url, content=body, headers=headers, timeout=30)


def examples(group: TyperGroup, *above: str) -> Iterator[tuple[str, list[str]]]:
    """Every command by its words, and what its example says after the program's name."""
    for name, one in group.commands.items():
        if isinstance(one, TyperGroup):
            yield from examples(one, *above, name)
        else:
            line = (one.epilog or "").partition(": openledger ")[2]
            yield " ".join((*above, name)), shlex.split(line)


def test_commands_talk_to_the_server_that_owns_the_home(
    platform: Platform, server: RunningServer
) -> None:
    options = ["--home", str(platform.home.root), "--json"]
    made = CliRunner().invoke(app, [*options, "wallet", "new", "alice"])
    missing = CliRunner().invoke(app, [*options, "datanet", "show", "none"])
    running = read_server(Home(platform.home.root))
    ready = httpx.get(f"{server.url}/readyz")

    assert ready.json() == {"status": "ready"}
    assert running is not None
    assert running.url == server.url
    assert json.loads(made.stdout)["label"] == "user/alice"
    assert missing.exit_code == 3


def test_commands_that_ask_a_server_load_nothing_heavy(
    platform: Platform, server: RunningServer, tmp_path: Path
) -> None:
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    lines = [line for words, line in examples(root) if not words.startswith(ALONE)]
    (tmp_path / "mine.abc").write_text("X:1\nT:Mine\nK:C\nCDEF|\n")
    home = str(platform.home.root)
    command = [sys.executable, "-c", ASKING, home, json.dumps(HEAVY), json.dumps(lines)]
    found = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    codes, loaded = json.loads(found.stdout)

    assert loaded == {}
    assert (codes["datanet show tunes"], codes["wallet balance me"]) == (0, 0)
    assert (codes["model card me/tunes"], codes["receipt evidence rcp_ID"]) == (3, 2)
    assert 7 not in codes.values()  # the server answered each of them


@pytest.mark.parametrize(("host", "status"), [("models.example:8700", 200), ("other.example", 403)])
def test_other_machines_call_by_the_names_that_are_set(
    server: RunningServer, host: str, status: int
) -> None:
    answer = httpx.get(f"{server.url}/healthz", headers={"Host": host})

    assert answer.status_code == status


def test_commands_reach_a_server_that_listens_elsewhere(tmp_path: Path) -> None:
    home = tmp_path / "home"
    serve = ServeSettings(host="127.0.0.2")
    with (
        open_platform(msgspec.structs.replace(fair.settings(home), serve=serve)) as platform,
        serving(platform, 0) as server,
    ):
        made = CliRunner().invoke(app, ["--home", str(home), "wallet", "new", "alice"])
        elsewhere = httpx.get(f"{server.url}/healthz".replace("127.0.0.1", "127.0.0.2"))

    assert made.exit_code == 0, made.output
    assert elsewhere.status_code == 200


def test_a_request_that_never_ends_does_not_keep_a_server_alive(tmp_path: Path) -> None:
    serve = ServeSettings(stop_timeout_s=1)
    settings = msgspec.structs.replace(fair.settings(tmp_path / "home"), serve=serve)
    with open_platform(settings) as platform:
        server = RunningServer(platform, 0)
        server.start()
        url = httpx.URL(server.url)
        with socket.create_connection((url.host, url.port)) as caller:
            head = f"POST /rpc HTTP/1.1\r\nHost: {url.host}\r\nContent-Type: application/json\r\n"
            caller.sendall(head.encode() + b"Content-Length: 9\r\n\r\n{")
            assert httpx.get(f"{server.url}/healthz").is_success  # and the other one is read
            stopping = threading.Thread(target=server.stop)
            stopping.start()
            stopping.join(30)

            assert not stopping.is_alive()


@pytest.mark.parametrize("count", [1, 3])
def test_files_of_just_the_limit_reach_the_server(
    platform: Platform, server: RunningServer, tmp_path: Path, count: int
) -> None:
    limit = 1 << 20
    paths = [tmp_path / f"{number}.txt" for number in range(count)]
    for path in paths:
        path.write_bytes(b"\0" * (limit // count))
    files = tuple(File(path.name, path.read_bytes()) for path in paths)
    options = ["--home", str(platform.home.root), "datanet", "add", "none", "--as", "operator"]
    names = [str(path) for path in paths]
    fitting = CliRunner().invoke(app, [*options, *names], env=ONE_MB)
    paths[0].write_bytes(b"\0" * (limit + 1))
    too_large = CliRunner().invoke(app, [*options, *names], env=ONE_MB)

    assert len(to_wire(Addition("none", "operator", files))) <= body_bytes(limit)
    assert fitting.exit_code == 3  # the server read it all: there is no such Datanet
    assert too_large.exit_code == 2
    assert "more than 1 MiB: give fewer" in too_large.stderr


def test_a_second_server_is_refused(platform: Platform, server: RunningServer) -> None:
    second = CliRunner().invoke(app, ["--home", str(platform.home.root), "serve", "--port", "0"])

    assert second.exit_code == 7
    assert "another process owns" in second.stderr


def test_a_port_that_is_taken_is_named(platform: Platform, server: RunningServer) -> None:
    port = int(server.url.rpartition(":")[2])

    with pytest.raises(UnavailableError, match=f"port {port} of 127.0.0.1 is taken"):
        RunningServer(platform, port)


def test_operations_need_the_homes_token(server: RunningServer) -> None:
    assert post(server, "wallet.balance", b"{}", server.token).status_code == 200
    assert post(server, "wallet.balance", b"{}", "sk-ol-guess").status_code == 401


@pytest.mark.parametrize(
    ("name", "body", "status"),
    [
        ("wallet.balanse", b"{}", 404),
        ("wallet.new", b"{}", 400),
        ("wallet.new", b"\xff", 400),
        ("datanet.show", b'{"name":"none"}', 404),
    ],
)
def test_wrong_operations_are_answered_with_a_reason(
    server: RunningServer, name: str, body: bytes, status: int
) -> None:
    answer = post(server, name, body, server.token)

    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_an_unknown_claim_is_refused(platform: Platform) -> None:
    body = b'{"datanet":"x","contributor":"y","files":[],"claim":"thief"}'

    with pytest.raises(Exception, match="'thief' is no claim"):
        run_operation(platform, "datanet.add", body)
    with pytest.raises(NotFoundError, match=r"wallet\.balance"):
        run_operation(platform, "wallet.balanse", b"{}")


def test_nothing_is_left_of_a_server_that_stopped(tmp_path: Path) -> None:
    with open_platform(fair.settings(tmp_path / "home")) as platform:
        with serving(platform, 0):
            assert platform.home.server_file.exists()
        assert not platform.home.server_file.exists()
