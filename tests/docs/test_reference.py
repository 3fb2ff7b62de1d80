"""The reference says what the code says."""

import asyncio
import importlib
import importlib.util
import re
from pathlib import Path

import msgspec
import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from openledger.cli import output
from openledger.cli.output import exit_code
from openledger.core.errors import OpenLedgerError
from openledger.settings import Settings, load
from openledger.web import app
from openledger.web import errors as web_errors
from tests.docs.pages import DOCS, ROOT, toml_blocks

SOURCE = ROOT / "src" / "openledger"

_ROW = re.compile(r"^\| `(\w+)` \| (\d+|–) \| (\d{3}|–) \|", re.M)
_SAID = re.compile(r"""\bfail\(\s*\w+,\s*"(\w+)",.*?(\w+),?\s*\)\n""", re.S)
_FROM_THE_FRAMEWORK = (404, 405)  # an unknown path, a method that the path does not know


def _all(kind: type[OpenLedgerError]) -> set[type[OpenLedgerError]]:
    return {kind}.union(*(_all(below) for below in kind.__subclasses__()))


def test_every_error_stands_in_the_reference_with_exit_code_and_status() -> None:
    # An error may be declared in any room, and exists only once its module is imported.
    for path in SOURCE.rglob("*.py"):
        if re.search(r"^class \w+Error\(", path.read_text(encoding="utf-8"), re.M):
            importlib.import_module(".".join(path.relative_to(SOURCE.parent).with_suffix("").parts))
    ours = {kind for kind in _all(OpenLedgerError) if kind.__module__.startswith("openledger.")}
    page = (DOCS / "reference" / "errors.md").read_text(encoding="utf-8")

    stated = {code: (leave, status) for code, leave, status in _ROW.findall(page)}

    bare = [kind.__new__(kind) for kind in ours]
    raised = {one.code: (str(exit_code(one)), str(web_errors.status_of(one))) for one in bare}
    assert stated == _of_one_edge(raised) | raised


def _of_one_edge(raised: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """The codes that the command line or the server finds by itself, and no class has."""
    texts = [path.read_text(encoding="utf-8") for path in (SOURCE / "cli").rglob("*.py")]
    said = {
        code: str(getattr(output, name)) for text in texts for code, name in _SAID.findall(text)
    }
    answered = {_code_of(status): str(status) for status in _FROM_THE_FRAMEWORK}
    for code in said.keys() & raised.keys():
        assert raised[code][0] == said[code]
    for code in answered.keys() & raised.keys():
        assert raised[code][1] == answered[code]
    return {code: (leave, "–") for code, leave in said.items()} | {
        code: ("–", status) for code, status in answered.items()
    }


def _code_of(status: int) -> str:
    request = Request({"type": "http", "method": "GET", "path": "/", "headers": []})
    response = asyncio.run(app._on_http_error(request, HTTPException(status)))
    return str(msgspec.json.decode(response.body)["error"]["code"])


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


@pytest.mark.parametrize(("page", "body"), toml_blocks())
def test_every_toml_block_is_taken_as_settings(tmp_path: Path, page: str, body: str) -> None:
    path = tmp_path / "openledger.toml"
    path.write_text(body, encoding="utf-8")
    found = load({}, environment={}, files=(path,))

    assert found != Settings(), f"{page} sets nothing"


def test_a_page_with_settings_is_looked_at() -> None:
    assert {page for page, _ in toml_blocks()} >= {
        "reference/settings.md",
        "how-to/other-chains.md",
    }


def test_every_setting_stands_in_the_reference() -> None:
    page = (DOCS / "reference" / "settings.md").read_text(encoding="utf-8")
    names = {
        f"{section.name}.{field.name}"
        for section in msgspec.structs.fields(Settings)
        for field in msgspec.structs.fields(section.type)
    }

    assert set(re.findall(r"^\| `(\w+\.\w+)`", page, re.M)) == names


def test_every_client_stands_in_the_reference_with_the_version_that_is_tested() -> None:
    pins = (ROOT / "tests" / "clients" / "requirements").glob("*.txt")
    tested = re.findall(
        r"^(openai|langchain-openai|litellm|schemathesis)==(\S+)$",
        "\n".join(path.read_text(encoding="utf-8") for path in sorted(pins)),
        re.M,
    )
    page = (DOCS / "reference" / "api.md").read_text(encoding="utf-8")
    stated = re.findall(r"^(?:\| )?`([\w-]+)`(?: \|)? (\d+\.\d+\.\d+)", page, re.M)

    assert sorted(set(tested)) == sorted(stated)
