"""Files at rest say nothing to whoever copies them, and stay in their place."""

import errno
from pathlib import Path

import pytest

from openledger.core.errors import StorageFullError, VerificationError
from openledger.storage.private.sealed_folder import SealedFolder, seal_folder
from openledger.storage.vault import Sealer

SEALER = Sealer(b"\x01" * 32)
TEXT = b"what was learned from a private text " * 50_000  # of several frames


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    plain = tmp_path / "run" / "state-unsealed"
    plain.mkdir(parents=True)
    (plain / "rows").write_bytes(TEXT)
    (plain / "manifest").write_bytes(b"{}")
    seal_folder(SEALER, plain, plain.with_name("state"))
    return plain.with_name("state")


def test_files_lie_encrypted_and_read_back(sealed: Path) -> None:
    assert SealedFolder(SEALER).read(sealed / "rows") == TEXT
    assert TEXT[:30] not in (sealed / "rows").read_bytes()
    assert (sealed / "rows").stat().st_size < 1.001 * len(TEXT)
    assert [path.name for path in sealed.parent.iterdir()] == ["state"]  # nothing plain is left


def test_a_file_opens_in_its_place_only(sealed: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "state"
    other.mkdir(parents=True)
    (other / "rows").write_bytes((sealed / "rows").read_bytes())
    (sealed / "manifest").write_bytes((sealed / "rows").read_bytes())

    for path in (other / "rows", sealed / "manifest"):
        with pytest.raises(VerificationError):
            SealedFolder(SEALER).read(path)
    with pytest.raises(VerificationError):
        SealedFolder(Sealer(b"\x02" * 32)).read(sealed / "rows")


def test_what_an_older_version_left_plain_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "rows").write_bytes(b"plain")

    assert SealedFolder(SEALER).read(tmp_path / "rows") == b"plain"


def test_sealing_again_replaces_what_stood_there(sealed: Path) -> None:
    plain = sealed.with_name("state-unsealed")
    plain.mkdir()
    (plain / "rows").write_bytes(b"new")
    seal_folder(SEALER, plain, sealed)

    assert [path.name for path in sealed.iterdir()] == ["rows"]
    assert SealedFolder(SEALER).read(sealed / "rows") == b"new"


def test_on_a_full_disk_the_plain_files_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tmp_path / "run" / "plain"
    plain.mkdir(parents=True)
    (plain / "rows").write_bytes(TEXT)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageFullError):
        seal_folder(SEALER, plain, plain.with_name("state"))

    assert [path.name for path in plain.parent.iterdir()] == ["plain"]
