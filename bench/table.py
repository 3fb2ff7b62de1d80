"""What every bench prints: one table or one JSON report, which says where it was made.

A bench gives its rows to `run`, whose answer is the exit status: 1 when a row missed its target.
"""

import argparse
import os
import platform
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

_STDOUT = Path("-")  # what --json means without a file
_STAT = Path("/proc/stat")
_STOLEN = 7  # place of the stolen ticks among those of user, nice, system, idle, ...
_COUNTED = 8  # guests' ticks follow, and stand in the user's already


class Row(msgspec.Struct, frozen=True):
    """One figure; `is_good` is None where there is no target or nothing was measured."""

    name: str
    value: float | None  # None: not measured
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
    parser.add_argument("--smoke", action="store_true", help="the smallest run, for correctness")
    parser.add_argument(
        "--json",
        type=Path,
        nargs="?",
        const=_STDOUT,
        metavar="FILE",
        help="write the report to this file too; without a file, print it instead of the table",
    )
    return parser


def run(measure: Callable[[argparse.Namespace], Sequence[Row]], chosen: argparse.Namespace) -> int:
    """Measure and report; 1 when a row missed its target, else 0."""
    before = _ticks()
    rows = [*measure(chosen), *stolen(before, _ticks())]
    report(rows, chosen.json)
    return int(any(row.is_good is False for row in rows))


def at_most(name: str, value: float | None, unit: str, most: float) -> Row:
    """A figure that should not exceed `most`."""
    return Row(name, value, unit, f"<= {most:g}", None if value is None else value <= most)


def at_least(name: str, value: float | None, unit: str, least: float) -> Row:
    """A figure that should reach `least`."""
    return Row(name, value, unit, f">= {least:g}", None if value is None else value >= least)


def exactly(name: str, value: float | None, unit: str, wanted: float) -> Row:
    """A figure that can only be `wanted`."""
    return Row(name, value, unit, f"= {wanted:g}", None if value is None else value == wanted)


def report(rows: Sequence[Row], target: Path | None) -> None:
    """Print the table, and write the JSON when a file is named; without one, print the JSON."""
    made = Report(_commit(), _machine(), tuple(rows))
    document = msgspec.json.format(msgspec.json.encode(made)) + b"\n"
    if target == _STDOUT:
        print(document.decode(), end="")
        return
    print("\n".join(_lines(rows)))
    if target is not None:
        target.write_bytes(document)


def stolen(before: Sequence[int], after: Sequence[int]) -> list[Row]:
    """How much of the CPU time between two readings went elsewhere; no row without readings."""
    passed = [late - early for early, late in zip(before, after, strict=False)]
    if not sum(passed):
        return []
    return [Row("CPU time taken by the host", 100 * passed[_STOLEN] / sum(passed), "%")]


def _lines(rows: Sequence[Row]) -> list[str]:
    width = max(len(row.name) for row in rows)
    return [
        f"{row.name:<{width}}  {_figure(row)} {row.target or '':<10} {_verdict(row)}"
        for row in rows
    ]


def _figure(row: Row) -> str:
    if row.value is None:
        return f"{'not measured':>21}"
    shown = f"{row.value:d}" if isinstance(row.value, int) else f"{row.value:.4g}"
    return f"{shown:>12} {row.unit:<8}"


def _verdict(row: Row) -> str:
    return {True: "ok", False: "MISSED", None: ""}[row.is_good]


def _ticks() -> list[int]:
    """CPU time of this machine since it started, by use; empty where nothing tells it."""
    if not _STAT.exists():
        return []
    line = _STAT.read_text(encoding="ascii").splitlines()[0]
    return [int(ticks) for ticks in line.split()[1:][:_COUNTED]]


def _commit() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or "unknown"


def _machine() -> str:
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8").splitlines()
        model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), model)
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"
