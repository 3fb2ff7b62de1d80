"""The reference says what the code says."""

import importlib.util
import re

import msgspec

from openledger.cli.output import exit_code
from openledger.core.errors import OpenLedgerError
from openledger.settings import Settings
from openledger.web import errors as web_errors
from tests.docs.pages import DOCS

_ROW = re.compile(r"^\| `(\w+)` \| (\d) \| (\d{3}) \|", re.M)


def _all(kind: type[OpenLedgerError]) -> set[type[OpenLedgerError]]:
    return {kind}.union(*(_all(below) for below in kind.__subclasses__()))


def test_every_error_stands_in_the_reference_with_exit_code_and_status() -> None:
    ours = {kind for kind in _all(OpenLedgerError) if kind.__module__.startswith("openledger.")}
    page = (DOCS / "reference" / "errors.md").read_text(encoding="utf-8")

    stated = {code: (int(leave), int(status)) for code, leave, status in _ROW.findall(page)}

    assert stated == {
        kind.code: (exit_code(kind("")), web_errors.status_of(kind(""))) for kind in ours
    }


def test_the_command_line_reference_is_fresh() -> None:
    path = DOCS / "generate.py"
    spec = importlib.util.spec_from_file_location("docs_generate", path)
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)

    assert generate.TARGET.read_text(encoding="utf-8") == generate.text(), (
        "stale: run python docs/generate.py"
    )


def test_every_setting_stands_in_the_reference() -> None:
    page = (DOCS / "reference" / "settings.md").read_text(encoding="utf-8")
    names = {
        f"{section.name}.{field.name}"
        for section in msgspec.structs.fields(Settings)
        for field in msgspec.structs.fields(section.type)
    }

    assert set(re.findall(r"^\| `(\w+\.\w+)`", page, re.M)) == names
