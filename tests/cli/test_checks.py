"""Receipts checked on another machine: an empty home, no network, nothing but files."""

import json
import socket
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest
from typer.testing import CliRunner, Result

from openledger.cli.main import app
from tests.audited import Files

pytestmark = pytest.mark.slow


@pytest.fixture
def desk(audited: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What lies on the checker's desk."""
    (tmp_path / "anchors.json").write_bytes(msgspec.json.encode(audited.anchors))
    for name in ("public", "private", "full", "drawn"):
        (tmp_path / f"{name}.json").write_bytes(getattr(audited, name))

    def refuse(*_: object) -> NoReturn:
        raise AssertionError("a check reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(desk: Path, *arguments: str) -> Result:
    environment = {"OPENLEDGER_HOME__CACHE": str(desk / "cache")}
    options = ["--home", str(desk / "home"), "--json", "receipt"]
    made = CliRunner().invoke(app, [*options, *arguments], env=environment)
    assert not (desk / "home").exists()
    return made


def verified(desk: Path, level: str, file: str, *more: str) -> Result:
    return run(desk, "verify", file, "--anchors", "anchors.json", "--level", level, *more)


@pytest.mark.parametrize(
    ("level", "file", "reached"),
    [
        ("1", "public.json", "L1 public"),
        ("1", "drawn.json", "L1 public"),
        ("full", "full.json", "L1 full"),
        ("full", "drawn.json", "L1 full"),
        ("2", "private.json", "L2"),
        ("2", "full.json", "L2"),
    ],
)
def test_every_level_is_reached_in_an_empty_home(
    audited: Files, desk: Path, level: str, file: str, reached: str
) -> None:
    done = verified(desk, level, file, "--release", str(audited.export))
    report = json.loads(done.stdout)

    assert done.exit_code == 0, done.output
    assert (report["level"], report["is_anchored"]) == (reached, True)
    assert report["distance_ppb"] == (0 if level == "2" else None)


def test_the_base_may_be_named(audited: Files, desk: Path) -> None:
    release = ["--release", str(audited.export)]

    named = verified(desk, "2", "private.json", *release, "--base", str(audited.base))
    altered = desk / "base"
    altered.mkdir()
    for path in audited.base.iterdir():
        raw = path.read_bytes()
        (altered / path.name).write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    refused = verified(desk, "2", "private.json", *release, "--base", str(altered))

    assert named.exit_code == 0
    assert refused.exit_code == 6
    assert "altered" in json.loads(refused.stdout)["error"]["message"]


@pytest.mark.parametrize(
    ("level", "file", "more", "code", "said"),
    [
        ("full", "public.json", (), 6, "receipt show --rows"),
        ("2", "private.json", (), 2, "--release"),
        ("2", "public.json", ("--release", "EXPORT"), 6, "--private"),
        ("3", "private.json", (), 2, "receipt audit"),
        ("1", "none.json", (), 3, "no file"),
        ("2", "private.json", ("--release", "."), 3, "no export"),
    ],
)
def test_what_is_missing_is_said(
    audited: Files, desk: Path, level: str, file: str, more: tuple[str, ...], code: int, said: str
) -> None:
    given = [str(audited.export) if one == "EXPORT" else one for one in more]
    done = verified(desk, level, file, *given)

    assert done.exit_code == code
    assert said in json.loads(done.stdout)["error"]["message"]


def test_a_forged_release_ends_with_the_exit_code_of_failed_checks(
    audited: Files, desk: Path
) -> None:
    (forged, *_) = audited.anchors.releases
    other = msgspec.structs.replace(forged, adapter=forged.base)
    anchors = msgspec.structs.replace(audited.anchors, releases=(other,))
    (desk / "anchors.json").write_bytes(msgspec.json.encode(anchors))

    done = verified(desk, "1", "public.json")

    assert done.exit_code == 6
    assert "another one on chain" in json.loads(done.stdout)["error"]["message"]


@pytest.mark.timeout(300)
def test_an_audit_retrains_from_files_alone(audited: Files, desk: Path) -> None:
    options = ["--release", str(audited.texts), "--leave-outs", "2", "--seeds", "1"]
    done = run(desk, "audit", "private.json", "--anchors", "anchors.json", *options)
    found = json.loads(done.stdout)

    assert done.exit_code == 0, done.output
    assert (found["receipts"], found["trainings"]) == (1, 3)
    assert "step" in done.stderr
    refused = run(desk, "audit", "private.json", "--release", str(audited.export))
    assert refused.exit_code == 3
    assert "--texts" in json.loads(refused.stdout)["error"]["message"]
