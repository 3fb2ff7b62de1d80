"""The house keeps its own rules: sizes, first lines, the tree, no traces of a machine."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT

SOURCE = ROOT / "src" / "openledger"
MODULES = sorted(SOURCE.rglob("*.py"))
LARGEST_LINES = 400
MOST_MODULES = 8
_WIDE_FOLDERS = {"cli", "web", "web/operations"}  # one file a noun, a route, an operation's subject

# Written in pieces, so that this file holds none of them.
_TRACES = re.compile(
    "|".join(
        (
            "/" + "work/",
            "/" + "root/",
            r"\.\./" + "shared",
            "files" + r"\.pythonhosted",
            r"pypi\." + "org",
            r"registry\." + "npmjs",
            "extra-" + "index-url",
        )
    )
)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_a_module_is_short_and_says_its_job_first(path: Path) -> None:
    text = path.read_text(encoding="utf-8")

    assert text.count("\n") <= LARGEST_LINES
    assert ast.get_docstring(ast.parse(text))


def test_a_folder_holds_few_modules() -> None:
    folders = {path.parent for path in MODULES}
    wide = {
        folder.relative_to(SOURCE).as_posix()
        for folder in folders
        if len([one for one in folder.glob("*.py") if one.name != "__init__.py"]) > MOST_MODULES
    }

    assert wide <= _WIDE_FOLDERS


def test_every_folder_of_the_source_stands_in_the_tree() -> None:
    tree = (DOCS / "architecture.md").read_text(encoding="utf-8").split("```")[1]
    drawn = _paths(tree)
    folders = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*")
        if path.is_dir() and "__pycache__" not in path.parts and any(path.iterdir())
    }

    assert folders == drawn


def test_no_tracked_file_names_a_machine() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("this is no git checkout")
    found = [
        f"{name}:{number}: {line.strip()[:80]}"
        for name in listed.stdout.split("\0")
        if name and (ROOT / name).is_file()
        for number, line in enumerate(
            (ROOT / name).read_text(encoding="utf-8", errors="replace").splitlines(), start=1
        )
        if _TRACES.search(line)
    ]

    assert found == []


def test_every_page_and_vector_that_the_code_cites_is_there() -> None:
    cited = {
        name
        for folder in ("src", "contracts", "tests", "bench")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".vy", ".md")
        for name in re.findall(
            r"\b(?:docs/[\w/-]+\.md|tests/vectors/\w+\.json)", path.read_text(encoding="utf-8")
        )
    }

    assert [name for name in sorted(cited) if not (ROOT / name).is_file()] == []


def _paths(tree: str) -> set[str]:
    """The folders drawn under src/openledger, as paths."""
    found = set()
    parents: list[str] = []
    inside = False
    for line in tree.splitlines():
        match = re.match(r"^(?P<lead>[│ ]*)[├└]── (?P<name>[\w.]+)(?P<slash>/)?", line)
        if match is None or not match["lead"]:
            inside = "src/openledger/" in line
            continue
        if not inside or not match["slash"]:
            continue
        depth = len(match["lead"]) // 4 - 1
        parents = [*parents[:depth], match["name"]]
        found.add("/".join(parents))
    return found
