import errno
import multiprocessing
import os
import uuid
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openledger.core.errors import (
    DigestMismatchError,
    InvalidInputError,
    NotFoundError,
    StorageFullError,
    UnavailableError,
)
from openledger.core.types import Digest
from openledger.storage.blobs import (
    BlobStore,
    FolderBlobs,
    RemoteBlobs,
    open_blobs,
    write_atomically,
)

UNKNOWN = Digest("0" * 64)


@pytest.fixture(params=["folder", "memory"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    if request.param == "folder":
        return open_blobs(tmp_path / "blobs")
    return open_blobs(f"memory://{uuid.uuid4()}")


def test_a_blob_is_found_under_its_digest(blobs: BlobStore) -> None:
    name = blobs.put(b"content")

    assert name == sha256(b"content").hexdigest()
    assert blobs.get(name) == b"content"
    assert blobs.has(name)
    assert list(blobs.names()) == [name]


def test_putting_twice_changes_nothing(blobs: BlobStore) -> None:
    assert blobs.put(b"") == blobs.put(b"")
    assert len(list(blobs.names())) == 1


def test_an_unknown_blob_is_said_to_be_unknown(blobs: BlobStore) -> None:
    assert not blobs.has(UNKNOWN)
    with pytest.raises(NotFoundError, match="not kept"):
        blobs.get(UNKNOWN)


def test_a_deleted_blob_is_gone(blobs: BlobStore) -> None:
    name = blobs.put(b"content")
    blobs.delete(name)
    blobs.delete(name)

    assert not blobs.has(name)
    assert list(blobs.names()) == []


def test_a_name_never_leads_out_of_the_store(blobs: BlobStore) -> None:
    with pytest.raises(InvalidInputError):
        blobs.get(Digest("../../etc/passwd"))


def test_a_damaged_blob_is_refused(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    name = blobs.put(b"content")
    (tmp_path / name[:2] / name).write_bytes(b"contents")

    with pytest.raises(DigestMismatchError, match="damaged"):
        blobs.get(name)


def test_a_damaged_remote_blob_is_refused() -> None:
    url = f"memory://{uuid.uuid4()}"
    blobs = RemoteBlobs(url)
    name = blobs.put(b"content")
    blobs._files.pipe_file(blobs._path(name), b"contents")

    with pytest.raises(DigestMismatchError, match="damaged"):
        blobs.get(name)


@given(st.binary(max_size=2000))
def test_every_content_comes_back(content: bytes) -> None:
    blobs = open_blobs("memory://every")

    assert blobs.get(blobs.put(content)) == content


def test_a_file_url_is_a_folder(tmp_path: Path) -> None:
    assert isinstance(open_blobs(f"file://{tmp_path}/blobs"), FolderBlobs)


def _put_many(folder: Path) -> None:
    for number in range(20):
        FolderBlobs(folder).put(b"%d" % number)


def test_processes_may_put_the_same_blobs_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_put_many, args=(tmp_path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()

    blobs = FolderBlobs(tmp_path)
    assert len(list(blobs.names())) == 20
    assert all(blobs.get(name) for name in blobs.names())


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "inside").write_bytes(b"old")

    with pytest.raises(OSError, match="kept"):
        write_atomically(kept, b"new")  # a file cannot take the place of a folder
    assert (kept / "inside").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_half_written_blob_is_not_listed(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    name = blobs.put(b"content")
    (tmp_path / name[:2] / ".new-half").write_bytes(b"half")

    assert list(blobs.names()) == [name]


def test_a_full_disk_is_told_wherever_blobs_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    blobs = FolderBlobs(tmp_path)
    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(StorageFullError, match="nothing was lost"):
        blobs.put(b"content")
    assert list(blobs.names()) == []


def test_a_kind_of_store_that_nobody_knows_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="cannot be cellar://"):
        open_blobs("cellar://left/shelf")


def test_a_store_that_does_not_answer_is_unavailable() -> None:
    blobs = RemoteBlobs(f"memory://{uuid.uuid4()}")

    def lose_connection() -> None:
        with blobs._answering():
            raise ConnectionResetError("reset")

    with pytest.raises(UnavailableError, match="reset"):
        lose_connection()
