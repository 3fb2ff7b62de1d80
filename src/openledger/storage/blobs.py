"""Blobs: bytes named by their sha256, in a local folder or any store that fsspec knows.

A blob never changes, so writing one twice is harmless. In a folder it appears whole or not at all:
it is written beside its place, synced and renamed. Reading checks the digest.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from openledger.core.errors import (
    DigestMismatchError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
    full_disk,
)
from openledger.core.types import Digest, digest


class BlobStore(Protocol):
    """Where blobs are kept; safe to share among threads."""

    def put(self, content: bytes) -> Digest:
        """Keep bytes; kept ones are found again under their digest."""

    def get(self, name: Digest) -> bytes:
        """The bytes of this digest.

        Raises:
            NotFoundError: none.
            DigestMismatchError: what is kept there is damaged.
        """

    def has(self, name: Digest) -> bool:
        """Whether a blob of this digest is kept; its bytes are not checked."""

    def delete(self, name: Digest) -> None:
        """Forget a blob, if it is kept."""

    def names(self) -> Iterator[Digest]:
        """All digests, in no order."""


def open_blobs(where: str | Path) -> BlobStore:
    """Open a folder, made when missing, or an fsspec URL such as `s3://bucket/prefix`.

    Raises:
        InvalidInputError: fsspec knows no such kind of store.
        ImportError: the package that reaches this kind of store is not installed.
    """
    if isinstance(where, str) and "://" in where and not where.startswith("file://"):
        return RemoteBlobs(where)
    return FolderBlobs(Path(str(where).removeprefix("file://")))


class FolderBlobs:
    """Blobs in a local folder, 256 folders wide."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with full_disk():
            folder.mkdir(parents=True, exist_ok=True)

    def put(self, content: bytes) -> Digest:
        name = Digest(sha256(content).hexdigest())
        path = self._path(name)
        if not path.exists():
            with full_disk():
                path.parent.mkdir(exist_ok=True)
                write_atomically(path, content)
        return name

    def get(self, name: Digest) -> bytes:
        try:
            content = self._path(name).read_bytes()
        except FileNotFoundError as error:
            raise NotFoundError(f"the blob {name} is not kept here") from error
        return _checked(name, content)

    def has(self, name: Digest) -> bool:
        return self._path(name).exists()

    def delete(self, name: Digest) -> None:
        self._path(name).unlink(missing_ok=True)

    def names(self) -> Iterator[Digest]:
        for path in self._folder.glob("??/*"):
            if len(path.name) == 2 * sha256().digest_size:
                yield Digest(path.name)

    def _path(self, name: Digest) -> Path:
        checked = digest(name)  # a name never leads out of the folder
        return self._folder / checked[:2] / checked


class RemoteBlobs:
    """Blobs in any store that fsspec knows; an object appears whole when its upload ends."""

    def __init__(self, url: str) -> None:
        import fsspec  # here: no command that uses a folder waits for it

        try:
            self._files, root = fsspec.core.url_to_fs(url)
        except ValueError as error:
            raise InvalidInputError(f"home.blobs cannot be {url}: {error}") from error
        self._root = str(root).rstrip("/")

    def put(self, content: bytes) -> Digest:
        name = Digest(sha256(content).hexdigest())
        with self._answering():
            if not self._files.exists(self._path(name)):
                self._files.makedirs(f"{self._root}/{name[:2]}", exist_ok=True)
                self._files.pipe_file(self._path(name), content)
        return name

    def get(self, name: Digest) -> bytes:
        with self._answering():
            try:
                content = bytes(self._files.cat_file(self._path(name)))
            except FileNotFoundError as error:
                raise NotFoundError(f"the blob {name} is not kept here") from error
        return _checked(name, content)

    def has(self, name: Digest) -> bool:
        with self._answering():
            return bool(self._files.exists(self._path(name)))

    def delete(self, name: Digest) -> None:
        with self._answering():
            if self._files.exists(self._path(name)):
                self._files.rm_file(self._path(name))

    def names(self) -> Iterator[Digest]:
        with self._answering():
            self._files.invalidate_cache()
            found = self._files.find(self._root)
        for path in found:
            yield Digest(path.rsplit("/", 1)[-1])

    def _path(self, name: Digest) -> str:
        checked = digest(name)
        return f"{self._root}/{checked[:2]}/{checked}"

    @contextmanager
    def _answering(self) -> Iterator[None]:
        with full_disk():
            try:
                yield
            except (ConnectionError, TimeoutError) as error:
                raise UnavailableError(f"the blob store does not answer: {error}") from error


def write_atomically(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Put a whole file in its place, synced, or leave what was there.

    Raises:
        OSError: it cannot be written.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    # The rename itself must survive a power cut, not only the bytes.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _checked(name: Digest, content: bytes) -> bytes:
    found = sha256(content).hexdigest()
    if found != name:
        raise DigestMismatchError(f"the blob {name} is damaged: its bytes have the digest {found}")
    return content
