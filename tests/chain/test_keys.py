"""Keys lie encrypted, and the same label has the same account for ever."""

import errno
import json
import os
import stat
from pathlib import Path

import pytest
from eth_account import Account as Keys
from hypothesis import given
from hypothesis import strategies as st

from openledger.chain import keys
from openledger.chain.keys import Keyring
from openledger.core.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    StorageFullError,
    UnauthenticatedError,
)
from openledger.core.signing import address_of

SEED = b"\x02" * 32


def test_a_home_opens_with_the_password_kept_beside_its_seed(tmp_path: Path) -> None:
    made = keys.create(tmp_path / "keys")
    opened = keys.unlock(tmp_path / "keys")

    assert opened.account("operator") == made.account("operator")
    for name in (keys.SEED_FILE, keys.PASSWORD_FILE):
        assert stat.S_IMODE((tmp_path / "keys" / name).stat().st_mode) == 0o600


def test_no_file_holds_a_key_in_the_clear(tmp_path: Path) -> None:
    made = keys.create(tmp_path)
    text = "".join(path.read_text() for path in tmp_path.iterdir())

    assert made._seed.hex() not in text
    assert made.private_key("operator").hex() not in text


def test_a_users_password_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "_FULL_WORK", 2**10)
    made = keys.create(tmp_path, "correct horse")

    assert not (tmp_path / keys.PASSWORD_FILE).exists()
    assert keys.unlock(tmp_path, "correct horse").account("x") == made.account("x")
    with pytest.raises(UnauthenticatedError, match="does not open"):
        keys.unlock(tmp_path, "wrong")
    with pytest.raises(UnauthenticatedError, match="need their password"):
        keys.unlock(tmp_path)


def test_a_users_password_is_hard_to_guess() -> None:
    assert keys._FULL_WORK == 2**18


def test_a_full_disk_leaves_no_seed_and_the_next_try_makes_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as small:
        small.setattr(os, "fsync", full)
        with pytest.raises(StorageFullError, match="free some space"):
            keys.create(tmp_path / "keys")
    left = list((tmp_path / "keys").iterdir())

    made = keys.create(tmp_path / "keys")
    assert left == []
    assert keys.unlock(tmp_path / "keys").account("x") == made.account("x")


def test_a_seed_is_never_overwritten(tmp_path: Path) -> None:
    keys.create(tmp_path)

    with pytest.raises(ConflictError):
        keys.create(tmp_path)


def test_a_home_without_keys_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        keys.unlock(tmp_path)


@pytest.mark.parametrize("damage", ["", "{}", "[]", "nonsense"])
def test_a_damaged_seed_is_told(tmp_path: Path, damage: str) -> None:
    keys.create(tmp_path)
    (tmp_path / keys.SEED_FILE).write_text(damage)

    with pytest.raises(UnauthenticatedError, match="damaged"):
        keys.unlock(tmp_path)


def test_an_exported_account_opens_in_other_wallets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "_FULL_WORK", 2**10)
    ring = Keyring(SEED)
    exported = ring.export("user/alice", "secret")

    assert bytes(Keys.decrypt(json.loads(exported), "secret")) == ring.private_key("user/alice")


@given(st.text(min_size=1, max_size=50), st.text(min_size=1, max_size=50))
def test_labels_have_keys_of_their_own(first: str, second: str) -> None:
    ring, same = Keyring(SEED), Keyring(SEED)

    assert ring.private_key(first) == same.private_key(first)
    assert ring.account(first) == address_of(ring.private_key(first))
    assert (ring.account(first) == ring.account(second)) == (first == second)


@pytest.mark.parametrize("label", ["", "x" * 201])
def test_a_label_has_a_length(label: str) -> None:
    with pytest.raises(InvalidInputError):
        Keyring(SEED).account(label)


def test_derivation_never_changes() -> None:
    # Changing this would lose every account of every home.
    key = Keyring(b"\x00" * 32).private_key("operator").hex()

    assert key == "b49f9e928435485e85f316f4521a93eed59e875fcc4ff058ec0cf799347520d2"
