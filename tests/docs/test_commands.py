"""Every command of tutorial and how-to runs as it is written."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, WITH_SERVER, WITHOUT_SERVER, script


def test_every_page_with_commands_is_run() -> None:
    shown = {
        path.relative_to(DOCS).as_posix()
        for folder in ("tutorial", "how-to")
        for path in (DOCS / folder).glob("*.md")
        if "```console" in path.read_text(encoding="utf-8")
    }

    assert shown == {*WITH_SERVER, *WITHOUT_SERVER}


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_every_command_of_the_documentation_runs(tmp_path: Path) -> None:
    bin_folder = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "OPENLEDGER_HOME__PATH": str(tmp_path / "home"),
        "OPENLEDGER_MODELS__BASE": "tiny",
        "OPENLEDGER_SERVE__PORT": str(port := _free_port()),
        "OMP_NUM_THREADS": "1",
    }
    with _server(tmp_path, environment):
        for page in WITH_SERVER:
            _run(script(page, port), page, tmp_path, environment)
    for page in WITHOUT_SERVER:
        _run(script(page, port), page, tmp_path, environment)


def _run(commands: str, page: str, folder: Path, environment: dict[str, str]) -> None:
    ended = subprocess.run(
        ["bash", "-c", commands],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, f"{page}\n{ended.stdout[-2000:]}\n{ended.stderr[-3000:]}"


@contextmanager
def _server(folder: Path, environment: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen(
        [f"{Path(sys.executable).parent}/openledger", "serve", "--quiet"],
        cwd=folder,
        env=environment,
    )
    try:
        while not (folder / "home" / "server.json").exists():
            assert process.poll() is None, "the server did not start"
            time.sleep(0.05)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port
