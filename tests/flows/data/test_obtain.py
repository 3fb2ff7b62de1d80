import errno
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pytest

from openledger.core.errors import (
    DigestMismatchError,
    NotFoundError,
    StorageFullError,
    UnavailableError,
)
from openledger.core.types import Digest
from openledger.flows.data.obtain import (
    SOURCES,
    Package,
    Registry,
    Source,
    obtain,
    run_command,
)

CONTENT = b"archive"


def package(name: str, registry: Registry) -> Package:
    return Package(name, "1.0", f"{name}.file", Digest(sha256(CONTENT).hexdigest()), registry)


SMALL = {
    "pair": Source("the pair", (package("one", Registry.PYPI), package("two", Registry.DEBIAN)))
}


class Shop:
    """A registry that writes the file asked for."""

    def __init__(self, content: bytes = CONTENT, ending: str = ".file") -> None:
        self.commands: list[Sequence[str]] = []
        self._content = content
        self._ending = ending

    def __call__(self, command: Sequence[str], folder: Path) -> None:
        self.commands.append(command)
        name = command[-1].split("=")[0]
        (folder / f"{name}{self._ending}").write_bytes(self._content)


def test_packages_are_fetched_once_and_then_taken_from_the_cache(tmp_path: Path) -> None:
    shop = Shop()

    first = obtain("pair", tmp_path / "cache", SMALL, shop)
    again = obtain("pair", tmp_path / "cache", SMALL, shop)

    assert first == again == {n: tmp_path / "cache" / f"{n}.file" for n in ("one", "two")}
    assert first["one"].read_bytes() == CONTENT
    assert len(shop.commands) == 2
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["one.file", "two.file"]


def test_wheels_come_by_pip_and_debian_packages_by_apt(tmp_path: Path) -> None:
    shop = Shop()

    obtain("pair", tmp_path, SMALL, shop)

    pip, apt = shop.commands
    assert pip[:3] == [sys.executable, "-m", "pip"]
    assert "--no-deps" in pip
    assert pip[-1] == "one==1.0"
    assert apt == ["apt-get", "download", "two=1.0"]


def test_a_damaged_file_in_the_cache_is_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "one.file").write_bytes(b"damaged")

    assert obtain("pair", tmp_path, SMALL, Shop())["one"].read_bytes() == CONTENT


def test_another_file_than_the_pinned_one_is_refused_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(DigestMismatchError, match=r"one\.file has sha256"):
        obtain("pair", tmp_path, SMALL, Shop(b"other"))
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_fetched_is_named(tmp_path: Path) -> None:
    def without_apt(command: Sequence[str], folder: Path) -> None:
        raise UnavailableError("apt-get is not on this machine")

    with pytest.raises(UnavailableError, match="the pair cannot be fetched and is left out: apt"):
        obtain("pair", tmp_path, SMALL, without_apt)
    with pytest.raises(UnavailableError, match=r"PyPI gave no one\.file"):
        obtain("pair", tmp_path, SMALL, Shop(ending=".other"))


@pytest.mark.parametrize(
    ("number", "error", "message"),
    [
        (errno.ENOSPC, StorageFullError, "disk is full"),
        (errno.EDQUOT, StorageFullError, "disk is full"),
        (errno.EACCES, UnavailableError, "the pair is left out"),
    ],
)
def test_a_disk_that_does_not_take_it_is_told(
    tmp_path: Path, number: int, error: type[Exception], message: str
) -> None:
    def on_a_bad_disk(command: Sequence[str], folder: Path) -> None:
        raise OSError(number, "no")

    with pytest.raises(error, match=message):
        obtain("pair", tmp_path, SMALL, on_a_bad_disk)


def test_an_unknown_source_is_answered_with_near_names(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="did you mean folk-music"):
        obtain("folk-musik", tmp_path)


def test_every_source_is_pinned() -> None:
    files = [one.file for source in SOURCES.values() for one in source.packages]

    assert set(SOURCES) == {"base-model", "folk-music", "linux-manual", "breton"}
    assert len(set(files)) == len(files) == 6


def test_commands_run_in_the_folder_given(tmp_path: Path) -> None:
    run_command([sys.executable, "-c", "open('made', 'w').close()"], tmp_path)

    assert (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["no-such-program-here"], "no-such-program-here is not on this machine"),
        ([sys.executable, "-c", "raise SystemExit('no index')"], "failed: no index"),
        ([sys.executable, "-c", "raise SystemExit(3)"], "failed: no message"),
    ],
)
def test_commands_that_fail_say_why(tmp_path: Path, command: list[str], message: str) -> None:
    with pytest.raises(UnavailableError, match=message):
        run_command(command, tmp_path)


def test_commands_that_hang_are_stopped(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"took more than 0\.01 s"):
        run_command([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path, timeout_s=0.01)
