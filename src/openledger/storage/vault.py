"""Encryption at rest: what is private leaves this module only as ciphertext.

Format of a sealed object, version 1 (`tests/vectors/vault.json` holds an example):

    "OLV1" | salt, 32 bytes | key commitment, 32 bytes | nonce prefix, 4 bytes | frames

    object key | key commitment = 64 bytes of HKDF-SHA256(key, salt, info)
        info = "openledger vault v1" | object id
    frame i = AES-256-GCM under the object key of up to 1 MiB of plaintext, with its 16-byte tag
        nonce = nonce prefix | i, 8 bytes big-endian
        associated data = object id | i, 8 bytes big-endian | 1 if it is the last frame, else 0

All frames but the last are full; the last may be empty. The object id binds the ciphertext to its
place, the number and the flag stop frames from being moved or cut off, and the commitment stops
one ciphertext from opening under two keys. Each contribution has a random key, stored wrapped
under the home key; when it is destroyed nothing sealed under it can be read again.
"""

import hashlib
import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import select

from openledger.core.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    VerificationError,
)
from openledger.core.types import Digest
from openledger.storage.blobs import BlobStore
from openledger.storage.database import Transaction
from openledger.storage.records.rows import insert_new
from openledger.storage.tables import vault_keys

KEY_BYTES = 32
FRAME_BYTES = 1 << 20
RANDOM_BYTES = 36  # salt and nonce prefix

_MAGIC = b"OLV1"
_SALT_BYTES = 32
_TAG_BYTES = 16
_HEADER_BYTES = len(_MAGIC) + _SALT_BYTES + KEY_BYTES + 4
_LABEL = b"openledger vault v1"


class Vault:
    """Sealed objects in a blob store, with their keys in the database.

    `key_id` names a key, which is the contribution's row id; `object_id` names what is sealed.
    """

    def __init__(self, blobs: BlobStore, home_key: bytes) -> None:
        """Open the vault.

        Args:
            blobs: where ciphertext is kept.
            home_key: 32 bytes, under which every other key is wrapped.
        """
        _check_key(home_key)
        self._blobs = blobs
        self._home_key = home_key

    def add_key(self, transaction: Transaction, key_id: str, now: int) -> None:
        """Make the random key of a contribution, unless it has one."""
        wrapped = seal(self._home_key, f"key/{key_id}", os.urandom(KEY_BYTES))
        row = {"id": key_id, "wrapped": wrapped, "created_at": now}
        insert_new(transaction, vault_keys, [row])

    def put(self, transaction: Transaction, key_id: str, object_id: str, content: bytes) -> Digest:
        """Seal an object and keep it; the digest of its ciphertext.

        Raises:
            NotFoundError: no such key.
            ConflictError: the key is destroyed.
        """
        return self._blobs.put(seal(self._key(transaction, key_id), object_id, content))

    def get(self, transaction: Transaction, key_id: str, object_id: str, blob: Digest) -> bytes:
        """Open a kept object.

        Raises:
            NotFoundError: no such key or blob.
            ConflictError: the key is destroyed.
            VerificationError: the ciphertext was altered, or is another object's.
        """
        return unseal(self._key(transaction, key_id), object_id, self._blobs.get(blob))

    def delete(self, blob: Digest) -> None:
        """Forget a ciphertext."""
        self._blobs.delete(blob)

    def destroy_key(self, transaction: Transaction, key_id: str, now: int) -> None:
        """Make everything under this key unreadable for ever; the first time stands.

        Run `Database.checkpoint` after the commit: it takes the wrapped key off the disk. Backups
        made before still hold it.

        Raises:
            NotFoundError: no such key.
        """
        self._wrapped(transaction, key_id)
        change = vault_keys.update().where(
            vault_keys.c.id == key_id, vault_keys.c.destroyed_at.is_(None)
        )
        transaction.connection.execute(change.values(wrapped=None, destroyed_at=now))

    def _key(self, transaction: Transaction, key_id: str) -> bytes:
        wrapped = self._wrapped(transaction, key_id)
        if wrapped is None:
            raise ConflictError(f"the key {key_id} is destroyed; its data can never be read again")
        return unseal(self._home_key, f"key/{key_id}", wrapped)

    def _wrapped(self, transaction: Transaction, key_id: str) -> bytes | None:
        query = select(vault_keys.c.wrapped).where(vault_keys.c.id == key_id)
        found = transaction.connection.execute(query).first()
        if found is None:
            raise NotFoundError(f"the vault has no key {key_id}")
        wrapped: bytes | None = found[0]
        return wrapped


class Sealer:
    """Seals small records that live in the database itself, under the home key."""

    def __init__(self, home_key: bytes) -> None:
        _check_key(home_key)
        self._home_key = home_key

    def seal(self, name: str, content: bytes) -> bytes:
        """Encrypt; `name` is bound to it."""
        return seal(self._home_key, f"record/{name}", content)

    def mark(self, name: str, content: bytes) -> Digest:
        """A keyed digest: equal for equal content, and no help to whoever guesses at it."""
        message = f"mark/{name}/".encode() + content
        return Digest(hmac.new(self._home_key, message, hashlib.sha256).hexdigest())

    def unseal(self, name: str, sealed: bytes) -> bytes:
        """Decrypt.

        Raises:
            VerificationError: altered, or sealed under another name or key.
        """
        return unseal(self._home_key, f"record/{name}", sealed)


def seal(key: bytes, object_id: str, content: bytes, randomness: bytes | None = None) -> bytes:
    """Encrypt one object.

    Args:
        key: 32 bytes.
        object_id: what it is; opening asks for the same.
        content: of any size.
        randomness: 36 bytes, never used twice; drawn here unless a test vector gives them.
    """
    drawn = os.urandom(RANDOM_BYTES) if randomness is None else randomness
    salt, prefix = drawn[:_SALT_BYTES], drawn[_SALT_BYTES:]
    object_key, commitment = _derive(key, salt, object_id)
    cipher = AESGCM(object_key)
    last = max(0, len(content) - 1) // FRAME_BYTES
    frames = [
        cipher.encrypt(
            prefix + index.to_bytes(8, "big"),
            content[index * FRAME_BYTES : (index + 1) * FRAME_BYTES],
            _associated(object_id, index, is_last=index == last),
        )
        for index in range(last + 1)
    ]
    return b"".join((_MAGIC, salt, commitment, prefix, *frames))


def unseal(key: bytes, object_id: str, sealed: bytes) -> bytes:
    """Decrypt one object.

    Raises:
        VerificationError: another key or object, or a byte of it was altered, moved or cut off.
    """
    if sealed[: len(_MAGIC)] != _MAGIC or len(sealed) < _HEADER_BYTES + _TAG_BYTES:
        raise VerificationError(f"{object_id} is not a sealed object of version 1")
    salt = sealed[4:36]
    object_key, commitment = _derive(key, salt, object_id)
    if not hmac.compare_digest(commitment, sealed[36:68]):
        raise VerificationError(f"{object_id} is sealed under another key or was altered")
    prefix, body = sealed[68:_HEADER_BYTES], memoryview(sealed)[_HEADER_BYTES:]
    step = FRAME_BYTES + _TAG_BYTES
    last = (len(body) - 1) // step
    cipher = AESGCM(object_key)
    try:
        return b"".join(
            cipher.decrypt(
                prefix + index.to_bytes(8, "big"),
                body[index * step : (index + 1) * step],
                _associated(object_id, index, is_last=index == last),
            )
            for index in range(last + 1)
        )
    except InvalidTag as error:
        raise VerificationError(f"the ciphertext of {object_id} was altered or cut off") from error


def is_sealed(content: bytes) -> bool:
    """Whether these bytes begin as a sealed object does."""
    return content[: len(_MAGIC)] == _MAGIC


def _derive(key: bytes, salt: bytes, object_id: str) -> tuple[bytes, bytes]:
    """The object's own key and the commitment to it."""
    # One contribution's key seals many objects: without a key per object, two of them would share
    # a nonce prefix after some 2**16, and GCM does not survive that.
    _check_key(key)
    info = _LABEL + object_id.encode()
    derived = HKDF(SHA256(), length=2 * KEY_BYTES, salt=salt, info=info).derive(key)
    return derived[:KEY_BYTES], derived[KEY_BYTES:]


def _associated(object_id: str, index: int, *, is_last: bool) -> bytes:
    return object_id.encode() + index.to_bytes(8, "big") + bytes([is_last])


def _check_key(key: bytes) -> None:
    if len(key) != KEY_BYTES:
        raise InvalidInputError(f"a key of the vault has {KEY_BYTES} bytes, not {len(key)}")
