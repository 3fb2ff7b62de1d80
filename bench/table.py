"""What every bench prints: one table, and one JSON file that says where it was made."""

import argparse
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec


class Row(msgspec.Struct, frozen=True):
    """One figure; `is_good` is None where there is no target."""

    name: str
    value: float
    unit: str
    target: str | None = None
    is_good: bool | None = msgspec.field(default=None, name="ok")


class Report(msgspec.Struct, frozen=True):
    """All figures of one run."""

    commit: str
    machine: str
    rows: tuple[Row, ...]


def options(description: str | None) -> argparse.ArgumentParser:
    """The options that every bench has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--json", type=Path, help="write the report to this file")
    return parser


def at_most(name: str, value: float, unit: str, most: float) -> Row:
    """A figure that should not exceed `most`."""
    return Row(name, value, unit, f"<= {most:g}", value <= most)


def at_least(name: str, value: float, unit: str, least: float) -> Row:
    """A figure that should reach `least`."""
    return Row(name, value, unit, f">= {least:g}", value >= least)


def report(rows: Sequence[Row], target: Path | None) -> None:
    """Print the table, and write the JSON when a file is named."""
    width = max(len(row.name) for row in rows)
    for row in rows:
        verdict = {True: "ok", False: "MISSED", None: ""}[row.is_good]
        figure = f"{row.value:>12.4g} {row.unit:<8} {row.target or '':<10}"
        print(f"{row.name:<{width}}  {figure} {verdict}")
    if target is not None:
        made = Report(_commit(), _machine(), tuple(rows))
        target.write_bytes(msgspec.json.format(msgspec.json.encode(made)) + b"\n")


def _commit() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def _machine() -> str:
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8").splitlines()
        model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), model)
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"
