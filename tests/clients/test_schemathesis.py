"""What /v1 says of itself holds: schemathesis finds nothing, whatever it sends."""

import os
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.clients.environment import python_of
from tests.served import Served

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MODELS = ("openledger/reels@1", "openledger/jigs@1")
FUZZING = ("--phases", "fuzzing", "--max-examples", "12")
# Every bound of every field: both calls share theirs, so one of them is enough.
COVERAGE = ("--phases", "coverage", "--exclude-path", "/v1/completions")


@pytest.mark.parametrize("phase", [FUZZING, COVERAGE], ids=["fuzzing", "coverage"])
def test_schemathesis_finds_nothing(served: Served, phase: tuple[str, ...], tmp_path: Path) -> None:
    headers = {"Authorization": f"Bearer {served.key}"}
    asked = {"model": MODELS[0], "prompt": "X:1", "max_tokens": 2}
    url = f"{served.url}/completions"
    answer = httpx.post(url, json=asked, headers=headers, timeout=60).json()
    command: list[str | Path] = [
        *(python_of("schemathesis"), "-m", "schemathesis.cli"),
        *("--config-file", HERE / "schemathesis.toml", "--no-color"),
        *("run", served.url.replace("/v1", "/openapi.json")),
        *("--header", f"Authorization: {headers['Authorization']}"),
        *("--generation-database", "none", "--seed", "4"),
        *phase,
    ]
    environment = {
        **os.environ,
        "SCHEMATHESIS_HOOKS": "tests.clients.drivers.of_schemathesis",
        "MODELS": " ".join(MODELS),
        "RECEIPT": answer["id"],
        "PYTHONPATH": str(ROOT),
    }
    # Elsewhere, because it keeps what it found in the folder where it runs.
    found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    assert found.returncode == 0, found.stdout + found.stderr
    assert "0 generated" not in found.stdout
