"""Every bench runs in its smallest form, by name and by path, and reports what it should."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bench.table import Report, Row, at_least, at_most, exactly, options, report, run, stolen
from openledger.settings import load
from tests.docs.pages import ROOT

# What must hold in every smoke run; "corpora" reads what the machine has fetched before.
HOLDS: dict[str, set[str]] = {
    "attribution": set(),
    "attribution_cost": {
        "segments with something owed, answers",
        "segments with something owed, long answers",
    },
    "capture": {
        "smallest B2N2 bfloat16: rounds whose answers differ",
        "smallest B2N2 float32: rounds whose answers differ",
    },
    "demo": {"the money identity holds"},
    "crash": {"kills that landed", "rounds that differ or are unsound"},
    "epoch": {"receipts in the epoch", "settlements on chain", "its bundle proves its epoch"},
    "evidence": {
        "the index: bytes a document",
        "payment, 20 x 512: scores that differ",
        "payment, 20 x 256: scores that differ",
        "payment, 20 x 64: scores that differ",
    },
    "tolerance": {
        f"{what}, most: float32, {rest}"
        for what in ("apart", "gain apart")
        for rest in ("1 thread, flash", "2 threads, plain", "2 threads, flash")
    },
    "serving": {
        "smallest: logits apart from peft",
        "smallest B8, ranks 1 to 64: logits apart from peft",
        "smallest B8, mix of 3: logits apart from peft",
        "smallest: 12 of 16 callers hang up, places, blocks and adapters not free again",
        "smallest: 12 of 16 callers hang up, answers of others that differ",
        "smallest: 24 streams for 1 s, answers that lack tokens",
        "smallest: 24 streams for 1 s, answers that differ from the same alone",
    },
    "corpora": {
        "folk-music: tunes that parse",
        "folk-music: bars that sum to the metre, median",
    },
}


def test_every_bench_is_tried() -> None:
    benches = {
        path.stem if path.stem != "__main__" else path.parent.name
        for path in (ROOT / "bench").rglob("*.py")
        if "def main(" in path.read_text()
    }

    assert benches == set(HOLDS)


def path_of(name: str) -> str:
    """What a bench is started by, beside its name: a file, or the folder of a package."""
    return f"bench/{name}" if (ROOT / "bench" / name).is_dir() else f"bench/{name}.py"


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", sorted(HOLDS))
def test_the_smallest_run_reports_what_holds(name: str) -> None:
    cached = Path(load({}).home.cache, "packages")
    if name == "corpora" and not list(cached.glob("music21-*")):
        pytest.skip(f"the folk music is not in {cached}: python -m bench.corpora fetches it")
    command = [sys.executable, path_of(name), "--smoke", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert done.stdout, done.stderr.decode()
    found = msgspec.json.decode(done.stdout, type=Report, strict=True)

    assert not [row for row in found.rows if row.is_good is False]
    assert done.returncode == 0, done.stderr.decode()
    assert found.machine
    assert {row.name for row in found.rows if row.is_good} == HOLDS[name]
    assert all(row.is_good is None for row in found.rows if row.name not in HOLDS[name])


@pytest.mark.e2e
@pytest.mark.parametrize("name", sorted(HOLDS))
def test_a_bench_starts_by_name(name: str) -> None:
    """And by its path, in its smallest run."""
    command = [sys.executable, "-m", f"bench.{name}", "--help"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "--smoke" in said
    assert "--json [FILE]" in said


def test_a_missed_target_is_the_exit_status() -> None:
    chosen = options(None).parse_args([])

    assert run(lambda _: [at_most("seconds", 2, "s", 1)], chosen) == 1
    assert run(lambda _: [at_most("seconds", 1, "s", 1), Row("plain", 9, "")], chosen) == 0
    assert run(lambda _: [at_least("tokens", 1, "", 2)], chosen) == 1
    assert run(lambda _: [exactly("epochs", 2, "", 1)], chosen) == 1


def test_what_was_not_measured_has_no_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "report.json"
    report([at_most("first answer", None, "s", 300)], file)
    said = capsys.readouterr().out

    assert "not measured" in said
    assert "ok" not in said
    assert msgspec.json.decode(file.read_bytes())["rows"] == [
        {"name": "first answer", "value": None, "unit": "s", "target": "<= 300", "ok": None}
    ]


def test_json_without_a_file_is_all_that_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    report([Row("figure", 1, "s")], options(None).parse_args(["--json"]).json)

    found = msgspec.json.decode(capsys.readouterr().out)
    assert set(found) == {"commit", "machine", "rows"}


def test_the_share_that_the_host_took_is_of_all_cpu_time() -> None:
    before = [100, 0, 50, 800, 0, 0, 0, 10]
    after = [150, 0, 60, 815, 0, 0, 0, 35]

    assert stolen(before, after) == [Row("CPU time taken by the host", 25.0, "%")]
    assert stolen([], []) == []
