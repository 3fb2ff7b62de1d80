import io
import shutil
import tarfile
import threading
from pathlib import Path

import pytest

from openledger.core.errors import (
    ConflictError,
    DigestMismatchError,
    InvalidInputError,
    VerificationError,
)
from openledger.storage import jobs, schema
from openledger.storage.backup import backup, restore, verify
from openledger.storage.blobs import FolderBlobs
from openledger.storage.database import Database
from openledger.storage.home import Home
from openledger.storage.jobs import JobState, NewJob


@pytest.fixture
def home(template: Path, tmp_path: Path) -> Home:
    """A home with a little of everything."""
    home = Home(tmp_path / "home")
    home.root.mkdir()
    shutil.copyfile(template, home.database)
    FolderBlobs(home.blobs).put(b"ciphertext")
    for path in (home.models / "base", home.adapter("a") / "weights", home.chain / "state"):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"bytes")
    home.keys.mkdir(mode=0o700)
    (home.keys / "home.key").write_bytes(b"secret")
    home.server_file.write_bytes(b"token")
    return home


def _enqueue(database: Database, key: str) -> None:
    with database.transaction() as transaction:
        jobs.enqueue(transaction, NewJob("kind", key, b"payload"), 1)


def _queued(home: Home) -> int:
    database = Database(home.database)
    schema.check(database)
    with database.read() as transaction:
        found = len(jobs.in_state(transaction, JobState.QUEUED, limit=10**6))
    database.close()
    return found


@pytest.mark.parametrize("name", ["copy", "copy.tar"])
def test_a_restored_home_is_the_one_that_was_backed_up(
    home: Home, tmp_path: Path, name: str
) -> None:
    database = Database(home.database)
    _enqueue(database, "one")
    made = backup(home, tmp_path / name, now=5)
    _enqueue(database, "after the backup")
    database.close()
    again = Home(tmp_path / "again")

    assert restore(tmp_path / name, again) == made
    assert _queued(again) == 1
    assert (again.keys / "home.key").read_bytes() == b"secret"
    blobs = FolderBlobs(again.blobs)
    assert [blobs.get(blob) for blob in blobs.names()] == [b"ciphertext"]
    assert (again.adapter("a") / "weights").exists()
    assert not again.models.exists()
    assert not again.server_file.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["home", name, "again"])


def test_a_backup_while_others_write_is_of_one_moment(home: Home, tmp_path: Path) -> None:
    database = Database(home.database)
    enough = threading.Event()

    def write() -> None:
        for number in range(10_000):
            with database.transaction() as transaction:
                for half in ("a", "b"):
                    job = NewJob("kind", f"{number}{half}", b"payload")
                    jobs.enqueue(transaction, job, number)
            if enough.is_set():
                return

    writer = threading.Thread(target=write)
    writer.start()
    backup(home, tmp_path / "copy", now=5)
    enough.set()
    writer.join()
    database.close()
    restore(tmp_path / "copy", Home(tmp_path / "again"))

    assert _queued(Home(tmp_path / "again")) % 2 == 0


def test_a_home_that_is_not_empty_is_left_alone(home: Home, tmp_path: Path) -> None:
    backup(home, tmp_path / "copy", now=5)

    with pytest.raises(ConflictError, match="not empty"):
        restore(tmp_path / "copy", home)


def test_an_empty_folder_may_become_a_home(home: Home, tmp_path: Path) -> None:
    backup(home, tmp_path / "copy", now=5)
    (tmp_path / "again").mkdir()

    restore(tmp_path / "copy", Home(tmp_path / "again"))

    assert _queued(Home(tmp_path / "again")) == 0


def test_a_backup_never_overwrites(home: Home, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()

    with pytest.raises(ConflictError, match="exists already"):
        backup(home, tmp_path / "copy", now=5)


def test_a_home_without_a_database_has_no_backup(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="pg_dump"):
        backup(Home(tmp_path), tmp_path / "copy", now=5)


def test_any_difference_is_refused(home: Home, tmp_path: Path) -> None:
    backup(home, tmp_path / "good", now=5)
    names = [path.relative_to(tmp_path / "good") for path in (tmp_path / "good").rglob("*")]
    for number, name in enumerate(name for name in names if (tmp_path / "good" / name).is_file()):
        bad = tmp_path / f"bad{number}"
        shutil.copytree(tmp_path / "good", bad)
        content = bytearray((bad / name).read_bytes())
        content[len(content) // 2] ^= 1
        (bad / name).write_bytes(content)

        with pytest.raises(VerificationError):
            restore(bad, Home(tmp_path / "again"))
        (bad / name).unlink()
        with pytest.raises(VerificationError):
            restore(bad, Home(tmp_path / "again"))
    assert not (tmp_path / "again").exists()


def test_a_file_too_many_is_refused(home: Home, tmp_path: Path) -> None:
    backup(home, tmp_path / "copy", now=5)
    (tmp_path / "copy" / "more").write_bytes(b"more")

    with pytest.raises(DigestMismatchError, match="more"):
        verify(tmp_path / "copy")


def test_a_newer_format_is_refused(home: Home, tmp_path: Path) -> None:
    backup(home, tmp_path / "copy", now=5)
    listing = tmp_path / "copy" / "manifest.json"
    listing.write_bytes(listing.read_bytes().replace(b'"version":1', b'"version":2'))

    with pytest.raises(VerificationError, match="newer OpenLedger"):
        verify(tmp_path / "copy")


def test_what_is_no_backup_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.tar").write_bytes(b"text" * 1000)
    home = Home(tmp_path / "again")

    for name in ("text.tar", "nowhere"):
        with pytest.raises(VerificationError, match="not a backup"):
            restore(tmp_path / name, home)


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "link"])
def test_an_archive_cannot_write_elsewhere(tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        member = tarfile.TarInfo(name)
        member.size = 4
        if name == "link":
            member.type = tarfile.SYMTYPE
            member.linkname = "/etc/passwd"
        archive.addfile(member, io.BytesIO(b"evil"))

    with pytest.raises(VerificationError, match="no place"):
        restore(tmp_path / "evil.tar", Home(tmp_path / "again"))
    assert not (tmp_path / "outside").exists()
