import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from openledger.core.errors import InvalidInputError
from openledger.serving.native import library
from openledger.serving.native.compiler import compiled
from openledger.serving.native.library import InstructionSet, Native, load_library, native

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here")

# Quick stand-ins for a compiler: the real one works for seconds.
WRITES = 'while [ "$1" != -o ]; do shift; done; sleep 0.05; echo "$$" > "$2"'
VERSION = '[ "$1" = --version ] && echo 1.0 && exit'


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Puts a script on the path."""

    def put(script: str) -> str:
        file = tmp_path / "bin" / "our-cc"
        file.parent.mkdir()
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        monkeypatch.setenv("PATH", str(file.parent), prepend=":")
        return file.name

    return put


def test_many_at_once_leave_one_library(tmp_path: Path, compiler: Callable[[str], str]) -> None:
    name, folder = compiler(f"{VERSION}; {WRITES}"), tmp_path / "native"
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(lambda _: compiled(folder, (name,)), range(4)))

    assert paths == {*folder.iterdir()}
    assert len(paths) == 1


def test_what_was_compiled_is_not_compiled_again(
    tmp_path: Path, compiler: Callable[[str], str]
) -> None:
    name, folder = compiler(f"{VERSION}; {WRITES}"), tmp_path / "native"
    first = compiled(folder, (name,))
    assert first is not None
    written = first.read_text()

    assert compiled(folder, (name,)) == first
    assert first.read_text() == written


def test_without_openmp_it_is_compiled_for_one_thread(
    tmp_path: Path, compiler: Callable[[str], str]
) -> None:
    refuses = 'for one in "$@"; do [ "$one" = -fopenmp ] && exit 1; done'
    name = compiler(f"{VERSION}; {refuses}; {WRITES}")

    assert compiled(tmp_path / "native", (name,)) is not None


def test_without_a_compiler_there_is_none(tmp_path: Path) -> None:
    assert compiled(tmp_path, ("no-such-compiler",)) is None


@pytest.mark.parametrize("script", ["exit 1", f"{VERSION}; exit 1"])
def test_a_compiler_that_fails_leaves_nothing(
    tmp_path: Path, script: str, compiler: Callable[[str], str]
) -> None:
    assert compiled(tmp_path / "native", (compiler(script),)) is None
    assert not list(tmp_path.glob("native/*"))


def test_where_nothing_can_be_written_there_is_none(
    tmp_path: Path, compiler: Callable[[str], str]
) -> None:
    (tmp_path / "native").write_text("a file where the folder would be")

    assert compiled(tmp_path / "native", (compiler(f"{VERSION}; {WRITES}"),)) is None


def test_a_damaged_library_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = tmp_path / "made.so"
    damaged.write_bytes(b"no library")
    monkeypatch.setattr(library, "compiled", lambda _: damaged)
    load_library.cache_clear()
    try:
        assert load_library() is None
    finally:
        load_library.cache_clear()


@needs_compiler
def test_an_instruction_set_the_cpu_has_not_is_refused() -> None:
    loaded = load_library()
    assert loaded is not None
    assert native() == Native(loaded, loaded.widest)
    assert native(InstructionSet.PLAIN) == Native(loaded, InstructionSet.PLAIN)

    loaded.widest = InstructionSet.PLAIN
    try:
        with pytest.raises(InvalidInputError, match="AVX2"):
            native(InstructionSet.AVX2)
    finally:
        load_library.cache_clear()
