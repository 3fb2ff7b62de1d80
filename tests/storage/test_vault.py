import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from openledger.core.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    VerificationError,
)
from openledger.storage.blobs import FolderBlobs
from openledger.storage.database import Database
from openledger.storage.vault import FRAME_BYTES, Sealer, Vault, seal, unseal

KEY = bytes(range(32))
VECTORS = Path(__file__).parents[1] / "vectors" / "vault.json"
SIZES = [0, 1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 2 * FRAME_BYTES]


def open_by_the_book(key: bytes, object_id: str, sealed: bytes) -> bytes:
    """A second reader, written from the format's description alone."""
    magic, salt, commitment, prefix = sealed[:4], sealed[4:36], sealed[36:68], sealed[68:72]
    info = b"openledger vault v1" + object_id.encode()
    derived = HKDF(SHA256(), length=64, salt=salt, info=info).derive(key)
    assert magic == b"OLV1"
    assert commitment == derived[32:]
    frames: list[bytes] = []
    body = sealed[72:]
    while body or not frames:
        frame, body = body[: 2**20 + 16], body[2**20 + 16 :]
        number = len(frames).to_bytes(8, "big")
        associated = object_id.encode() + number + (b"\x00" if body else b"\x01")
        frames.append(AESGCM(derived[:32]).decrypt(prefix + number, frame, associated))
    return b"".join(frames)


@pytest.mark.parametrize("size", SIZES)
def test_what_is_sealed_opens_again(size: int) -> None:
    content = bytes(i % 251 for i in range(size))
    sealed = seal(KEY, "object", content)

    assert unseal(KEY, "object", sealed) == content
    assert open_by_the_book(KEY, "object", sealed) == content


@given(st.binary(max_size=300), st.text(max_size=20))
@settings(deadline=None)
def test_every_content_opens_again(content: bytes, object_id: str) -> None:
    assert unseal(KEY, object_id, seal(KEY, object_id, content)) == content


def test_a_changed_byte_anywhere_is_found() -> None:
    sealed = seal(KEY, "object", b"the text of a tune")
    for index in range(len(sealed)):
        altered = bytearray(sealed)
        altered[index] ^= 1

        with pytest.raises(VerificationError):
            unseal(KEY, "object", bytes(altered))


@pytest.mark.parametrize("length", [0, 3, 71, 72, 87, 88])
def test_a_cut_object_is_refused(length: int) -> None:
    with pytest.raises(VerificationError):
        unseal(KEY, "object", seal(KEY, "object", b"some text")[:length])


def test_frames_can_be_neither_cut_off_nor_moved() -> None:
    sealed = seal(KEY, "object", bytes(2 * FRAME_BYTES + 1))
    head, step = 72, FRAME_BYTES + 16
    first, second = sealed[head : head + step], sealed[head + step : head + 2 * step]
    last = sealed[head + 2 * step :]

    for body in (first, first + second, second + first + last, first + last):
        with pytest.raises(VerificationError, match="altered or cut"):
            unseal(KEY, "object", sealed[:head] + body)


def test_another_key_or_object_does_not_open_it() -> None:
    sealed = seal(KEY, "object", b"text")

    with pytest.raises(VerificationError, match="another key"):
        unseal(bytes(32), "object", sealed)
    with pytest.raises(VerificationError, match="another key"):
        unseal(KEY, "other", sealed)


def test_sealing_twice_gives_different_bytes() -> None:
    assert seal(KEY, "object", b"text") != seal(KEY, "object", b"text")


def test_the_vectors_hold() -> None:
    for case in json.loads(VECTORS.read_text()):
        key, content = bytes.fromhex(case["key"]), bytes.fromhex(case["content"])
        sealed = bytes.fromhex(case["sealed"])

        assert seal(key, case["object_id"], content, bytes.fromhex(case["randomness"])) == sealed
        assert open_by_the_book(key, case["object_id"], sealed) == content


def test_a_key_has_32_bytes(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="32 bytes"):
        Vault(FolderBlobs(tmp_path), b"short")
    with pytest.raises(InvalidInputError, match="32 bytes"):
        seal(b"short", "object", b"")


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(FolderBlobs(tmp_path / "blobs"), KEY)


def test_the_vault_keeps_what_it_is_given(database: Database, vault: Vault) -> None:
    with database.transaction() as transaction:
        vault.add_key(transaction, "contribution", 1)
        vault.add_key(transaction, "contribution", 2)
        blob = vault.put(transaction, "contribution", "chunk/0", b"a tune")
    with database.read() as transaction:
        assert vault.get(transaction, "contribution", "chunk/0", blob) == b"a tune"
        with pytest.raises(VerificationError):
            vault.get(transaction, "contribution", "chunk/1", blob)
        vault.delete(blob)
        with pytest.raises(NotFoundError):
            vault.get(transaction, "contribution", "chunk/0", blob)


def test_a_destroyed_key_opens_nothing_ever_again(database: Database, vault: Vault) -> None:
    with database.transaction() as transaction:
        vault.add_key(transaction, "contribution", 1)
        blob = vault.put(transaction, "contribution", "chunk/0", b"a tune")
        vault.destroy_key(transaction, "contribution", 2)
        vault.destroy_key(transaction, "contribution", 3)
        vault.add_key(transaction, "contribution", 4)

        with pytest.raises(ConflictError, match="destroyed"):
            vault.get(transaction, "contribution", "chunk/0", blob)
        with pytest.raises(ConflictError, match="destroyed"):
            vault.put(transaction, "contribution", "chunk/0", b"a tune")


def test_a_destroyed_key_leaves_the_disk(sqlite: Database, vault: Vault) -> None:
    with sqlite.transaction() as transaction:
        vault.add_key(transaction, "contribution", 1)
        row = transaction.connection.exec_driver_sql("SELECT wrapped FROM vault_keys").scalar()
    sqlite.checkpoint()
    path = Path(str(sqlite.url.database))
    assert isinstance(row, bytes)
    assert row in path.read_bytes()

    with sqlite.transaction() as transaction:
        vault.destroy_key(transaction, "contribution", 2)
    sqlite.checkpoint()

    assert row not in path.read_bytes()
    assert row not in Path(f"{path}-wal").read_bytes()


def test_an_unknown_key_is_said_to_be_unknown(database: Database, vault: Vault) -> None:
    with database.transaction() as transaction, pytest.raises(NotFoundError, match="no key"):
        vault.destroy_key(transaction, "nobody", 1)


def test_keys_are_of_no_use_under_another_home_key(
    database: Database, vault: Vault, tmp_path: Path
) -> None:
    with database.transaction() as transaction:
        vault.add_key(transaction, "contribution", 1)
        blob = vault.put(transaction, "contribution", "chunk/0", b"a tune")
        stolen = Vault(FolderBlobs(tmp_path / "blobs"), bytes(32))

        with pytest.raises(VerificationError):
            stolen.get(transaction, "contribution", "chunk/0", blob)


def test_a_sealed_record_is_bound_to_its_name() -> None:
    sealer = Sealer(KEY)
    sealed = sealer.seal("receipt", b"prompt")

    assert sealer.unseal("receipt", sealed) == b"prompt"
    with pytest.raises(VerificationError):
        sealer.unseal("other", sealed)


def test_a_mark_is_equal_for_equal_content_only() -> None:
    sealer = Sealer(KEY)

    assert sealer.mark("key", b"content") == sealer.mark("key", b"content")
    others = {sealer.mark("key", b"contents"), sealer.mark("keys", b"content")}
    others.add(Sealer(bytes(32)).mark("key", b"content"))
    assert len(others | {sealer.mark("key", b"content")}) == 4
