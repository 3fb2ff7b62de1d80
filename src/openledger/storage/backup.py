"""A backup of a home: complete, consistent, and checked before it is trusted.

Databases are copied page by page as of one moment while others write; blobs never change, and are
copied after the database that names them. `manifest.json` lists every file with its digest. It is
written last, so a backup without one is not finished. Left out are the base models, which can be
made again, and what belongs to one running process.
"""

import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path, PurePosixPath

import msgspec

from openledger.core.encoding import decode, encode
from openledger.core.errors import (
    ConflictError,
    DigestMismatchError,
    InvalidInputError,
    VerificationError,
    full_disk,
)
from openledger.core.types import Digest
from openledger.storage.blobs import write_atomically
from openledger.storage.database import copy_sqlite
from openledger.storage.home import Home

MANIFEST = "manifest.json"
FORMAT_VERSION = 1

_LEFT_OUT = frozenset({"models", "shelf", "server.json", "lock"})
_SQLITE_HEADER = b"SQLite format 3\x00"
_SQLITE_NEIGHBOURS = ("-wal", "-shm", "-journal")


class BackupFile(msgspec.Struct, frozen=True):
    """One file of a backup."""

    path: str  # in the home, with slashes
    digest: Digest
    size_bytes: int


class BackupManifest(msgspec.Struct, frozen=True):
    """What a backup consists of; canonical JSON."""

    version: int
    created_at: int  # microseconds
    files: tuple[BackupFile, ...]  # by path


def backup(home: Home, target: Path, now: int) -> BackupManifest:
    """Copy a home, used or not, into a new folder, or a tar file if the name ends in .tar.

    Blobs and databases that a URL puts elsewhere are not in it.

    Raises:
        ConflictError: something stands at the target.
        InvalidInputError: the home holds no SQLite database.
        StorageFullError: no room; what was written is removed.
    """
    if target.exists():
        raise ConflictError(f"{target} exists already: choose a new name")
    if not home.database.exists():
        raise InvalidInputError(
            f"{home.root} holds no database; one in PostgreSQL is backed up with pg_dump"
        )
    with full_disk(), _beside(target) as folder:
        for path in _files(home):
            _copy(home.root / path, folder / path)
        manifest = BackupManifest(FORMAT_VERSION, now, _listed(folder))
        write_atomically(folder / MANIFEST, encode(manifest))
        if target.suffix == ".tar":
            _pack(folder, target)
        else:
            folder.replace(target)
    return manifest


def restore(source: Path, home: Home) -> BackupManifest:
    """Make a home from a backup, whole or not at all.

    Raises:
        ConflictError: the home is not empty.
        VerificationError: the backup is not finished, or a file is missing, altered or too many.
        StorageFullError: no room; nothing was restored.
    """
    if home.root.exists() and any(home.root.iterdir()):
        raise ConflictError(f"{home.root} is not empty: restore into a new home")
    home.root.parent.mkdir(parents=True, exist_ok=True)
    with full_disk(), _beside(home.root) as folder:
        _unpack(source, folder)
        manifest = verify(folder)
        (folder / MANIFEST).unlink()
        if home.root.exists():
            home.root.rmdir()
        folder.replace(home.root)
    return manifest


def verify(folder: Path) -> BackupManifest:
    """Check every file of an unpacked backup.

    Raises:
        VerificationError: it is not finished, or a file is missing, altered or too many.
    """
    listing = folder / MANIFEST
    if not listing.is_file():
        raise VerificationError(f"{folder} has no {MANIFEST}: the backup was never finished")
    manifest = decode(listing.read_bytes(), BackupManifest)
    if manifest.version != FORMAT_VERSION:
        raise VerificationError(f"a newer OpenLedger made this backup (format {manifest.version})")
    found = {file.path: file for file in _listed(folder)}
    promised = {file.path: file for file in manifest.files}
    for path in sorted(found.keys() | promised.keys()):
        if found.get(path) != promised.get(path):
            raise DigestMismatchError(f"{path} is missing, altered or not part of this backup")
    return manifest


def _files(home: Home) -> list[Path]:
    """What to copy, the main database first: the chain and the blobs may only be ahead of it."""
    everything = (path.relative_to(home.root) for path in home.root.rglob("*") if path.is_file())
    kept = (path for path in everything if not _is_left_out(path))
    return sorted(kept, key=lambda path: (home.root / path != home.database, path))


def _is_left_out(path: Path) -> bool:
    is_temporary = path.name.startswith(".new-") or path.name.endswith(_SQLITE_NEIGHBOURS)
    return path.parts[0] in _LEFT_OUT or is_temporary


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with source.open("rb") as file:
        is_database = file.read(len(_SQLITE_HEADER)) == _SQLITE_HEADER
    if is_database:
        copy_sqlite(source, target)
    else:
        shutil.copyfile(source, target)
    target.chmod(0o600)


def _listed(folder: Path) -> tuple[BackupFile, ...]:
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return tuple(_described(folder, name) for name in sorted(names) if name != MANIFEST)


def _described(folder: Path, name: str) -> BackupFile:
    path = folder / name
    with path.open("rb") as file:
        digest = Digest(file_digest(file, "sha256").hexdigest())
    return BackupFile(name, digest, path.stat().st_size)


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A folder on the target's disk, removed unless it was moved away."""
    folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _pack(folder: Path, target: Path) -> None:
    unfinished = folder / (MANIFEST + ".tar")
    names = sorted(path for path in folder.rglob("*") if path.is_file())
    with tarfile.open(unfinished, "w") as archive:
        for path in names:
            archive.add(path, path.relative_to(folder).as_posix())
    unfinished.replace(target)


def _unpack(source: Path, folder: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, folder, dirs_exist_ok=True)
        return
    try:
        with tarfile.open(source, "r:") as archive:
            # It refuses links and paths that lead out of the folder, too; Python 3.11 has it from
            # its fourth release on.
            archive.extraction_filter = getattr(tarfile, "data_filter", _as_it_is)
            for member in archive:
                _check_member(member)
                archive.extract(member, folder)
    except (tarfile.TarError, FileNotFoundError) as error:
        raise VerificationError(f"{source} is not a backup: {error}") from error


def _as_it_is(member: tarfile.TarInfo, _: str) -> tarfile.TarInfo:
    return member


def _check_member(member: tarfile.TarInfo) -> None:
    path = PurePosixPath(member.name)
    if not member.isfile() or path.is_absolute() or ".." in path.parts:
        raise VerificationError(f"{member.name} has no place in a backup")
