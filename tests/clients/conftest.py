"""One server and one process of each client for all tests of a run."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.environment import python_of
from tests.served import Served, serve_tiny

ROOT = Path(__file__).parents[2]
DRIVERS = {
    "openai-2": "of_openai",
    "openai-3": "of_openai",
    "langchain": "of_langchain",
    "litellm": "of_litellm",
}


class Client:
    """A client at work in another process, and in an environment of its own."""

    def __init__(self, name: str, served: Served) -> None:
        command = [str(python_of(name)), "-m", f"tests.clients.drivers.{DRIVERS[name]}"]
        # LiteLLM would ask the network for prices.
        environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "*"}
        environment.pop("PYTHONPATH", None)
        self._served = served
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, way: str, model: str, **changes: object) -> None:
        """Have it call; `answer` gives what came of it."""
        call = {
            "url": self._served.url,
            "key": self._served.key,
            "way": way,
            "model": model,
            "max_tokens": 12,
            "extra": {},
            "retries": 0,
            "has_usage": False,
        }
        assert self._process.stdin is not None
        print(json.dumps(call | changes), file=self._process.stdin, flush=True)

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the client's process ended"
        told: dict[str, Any] = json.loads(line)
        return told

    def ask(self, way: str, model: str, **changes: object) -> dict[str, Any]:
        self.start(way, model, **changes)
        return self.answer()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@pytest.fixture(scope="session")
def served(market_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve_tiny(market_home, tmp_path_factory.mktemp("clients") / "home") as served:
        yield served


@pytest.fixture(scope="session", params=DRIVERS)
def client(request: pytest.FixtureRequest, served: Served) -> Iterator[Client]:
    client = Client(request.param, served)
    yield client
    client.close()
