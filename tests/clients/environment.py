"""An environment of its own for each client: made once for each list of pins, then kept."""

import fcntl
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import platformdirs
import pytest

REQUIREMENTS = Path(__file__).parent / "requirements"
_PATIENCE_S = 300


def python_of(name: str) -> Path:
    """The interpreter of the environment that `requirements/NAME.txt` describes.

    Skips the test where pip cannot install it.
    """
    pins = REQUIREMENTS / f"{name}.txt"
    key = sha256(sys.version.encode() + pins.read_bytes()).hexdigest()[:16]
    folder = platformdirs.user_cache_path("openledger") / "clients" / f"{name}-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    python, whole = folder / "bin" / "python", folder / "installed"
    with _alone(folder):
        if not whole.exists():
            shutil.rmtree(folder, ignore_errors=True)  # half of one
            pip = ("-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps")
            why = _run("-m", "venv", "--without-pip", str(folder)) or _run(*pip, "-r", str(pins))
            if why:
                pytest.skip(f"{name} is not tested: what {pins} names cannot be installed: {why}")
            whole.touch()
    return python


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time; several workers of one run ask for the same environment."""
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(*arguments: str) -> str:
    """What went wrong with Python, in a line; empty if nothing did."""
    command = [sys.executable, *arguments]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S)
    except subprocess.TimeoutExpired as error:
        return str(error)
    if found.returncode == 0:
        return ""
    return found.stderr.strip().rpartition("\n")[2] or f"exit code {found.returncode}"
