"""Keys at rest: one encrypted seed, from which every account's key is derived by its label.

The seed lies in an Ethereum keystore (version 3, scrypt), so that any wallet tool can open it.
Nothing here ever writes a key or a seed in the clear. When no password is given at creation, a
random one of 256 bits is made and kept in a file of its own that only its owner can read: that
protects the keystore when it is copied or backed up, not on the machine itself.

Key of a label: HMAC-SHA256(seed, "openledger/key/1/" || label), the first that is a valid scalar.
"""

import hmac
import json
import secrets
from hashlib import sha256
from pathlib import Path
from typing import Any

from eth_keyfile import keyfile

from openledger.core.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    UnauthenticatedError,
    full_disk,
)
from openledger.core.signing import address_of
from openledger.core.types import Account
from openledger.storage.blobs import write_atomically

SEED_BYTES = 32
PASSWORD_FILE = "password"  # noqa: S105 - a file's name
SEED_FILE = "seed.json"
_DOMAIN = b"openledger/key/1/"
_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
# The work of scrypt slows down guessing. Nobody guesses 256 random bits; people's passwords, yes.
_LIGHT_WORK = 2**14
_FULL_WORK = 2**18
_LONGEST_LABEL = 200


class Keyring:
    """All keys of a home, by label: "operator", "gateway", "user/alice", "behalf/folk/Jack"."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._keys: dict[str, bytes] = {}
        self._accounts: dict[str, Account] = {}

    def account(self, label: str) -> Account:
        """The address of a label; the same for ever in this home."""
        if label not in self._accounts:
            self._accounts[label] = address_of(self.private_key(label))
        return self._accounts[label]

    def private_key(self, label: str) -> bytes:
        """The 32 bytes that sign for a label; never log or store them.

        Raises:
            InvalidInputError: the label is empty or too long.
        """
        if not 0 < len(label) <= _LONGEST_LABEL:
            raise InvalidInputError(f"a key's label has 1 to {_LONGEST_LABEL} characters")
        if label not in self._keys:
            self._keys[label] = _derive(self._seed, label)
        return self._keys[label]

    def export(self, label: str, password: str) -> str:
        """One account as an Ethereum keystore in JSON, to be taken to any wallet."""
        return _locked(self.private_key(label), password, _FULL_WORK)


def create(folder: Path, password: str | None = None) -> Keyring:
    """Make a home's seed.

    Args:
        folder: where keystores live; made when missing, readable by its owner only.
        password: the user's; None makes a random one beside the keystore.

    Raises:
        ConflictError: there is a seed already.
        StorageFullError: the disk is full; there is no seed yet.
    """
    if (folder / SEED_FILE).exists():
        raise ConflictError(f"{folder} holds keys already; open them, or choose another home")
    seed = secrets.token_bytes(SEED_BYTES)
    work = _FULL_WORK
    if password is None:
        password, work = secrets.token_hex(32), _LIGHT_WORK
        _write_private(folder / PASSWORD_FILE, password)
    # The seed last: a password without a seed is replaced by the next try.
    _write_private(folder / SEED_FILE, _locked(seed, password, work))
    return Keyring(seed)


def unlock(folder: Path, password: str | None = None) -> Keyring:
    """Open a home's seed with the user's password, or with the one kept beside it.

    Raises:
        NotFoundError: there is no seed.
        UnauthenticatedError: the password is wrong or missing.
    """
    if not (folder / SEED_FILE).exists():
        raise NotFoundError(f"{folder} holds no keys; make a wallet first")
    if password is None:
        if not (folder / PASSWORD_FILE).exists():
            raise UnauthenticatedError(f"the keys in {folder} need their password")
        password = (folder / PASSWORD_FILE).read_text().strip()
    return Keyring(_unlocked((folder / SEED_FILE).read_text(), password))


def _derive(seed: bytes, label: str) -> bytes:
    message = _DOMAIN + label.encode()
    while True:
        key = hmac.new(seed, message, sha256).digest()
        if 0 < int.from_bytes(key, "big") < _ORDER:
            return key
        message += b"\x00"  # pragma: no cover - one label in 2**128


def _locked(secret: bytes, password: str, work: int) -> str:
    store = keyfile.create_keyfile_json(
        secret, password.encode(), kdf="scrypt", iterations=work, salt_size=32
    )
    return json.dumps(store)


def _unlocked(text: str, password: str) -> bytes:
    try:
        store: dict[str, Any] = json.loads(text)
        return bytes(keyfile.decode_keyfile_json(store, password.encode()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnauthenticatedError(
            "the password does not open the keys, or their file is damaged"
        ) from error


def _write_private(path: Path, text: str) -> None:
    """Write a file whole or not at all, readable by its owner only."""
    with full_disk():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(path, text.encode())
