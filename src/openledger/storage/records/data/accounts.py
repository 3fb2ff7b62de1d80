"""Accounts that this home knows, and the keys of its API.

An API key is stored as its sha256 only. Its public prefix names it in lists and in receipts.
"""

import hmac
from enum import StrEnum
from hashlib import sha256

import msgspec
from sqlalchemy import select

from openledger.core.errors import NotFoundError, UnauthenticatedError
from openledger.core.ids import did_you_mean
from openledger.core.types import Account, Digest, Wei
from openledger.storage.database import Transaction
from openledger.storage.records.rows import every, first, insert_once, values_of
from openledger.storage.tables import accounts, api_keys

PREFIX_LENGTH = 12


class AccountKind(StrEnum):
    """Whose account it is; `ON_BEHALF` belongs to an author who did not come himself."""

    OPERATOR = "operator"
    USER = "user"
    ON_BEHALF = "on_behalf"


class LocalAccount(msgspec.Struct, frozen=True):
    """An account with the name it goes by in this home."""

    address: Account
    label: str  # unique, for commands and URLs
    kind: AccountKind
    display_name: str
    created_at: int


class ApiKey(msgspec.Struct, frozen=True):
    """What is known of an API key; the key itself is shown once and never stored."""

    prefix: str  # its first 12 characters
    hash: Digest  # sha256 of all of it
    account: Account
    label: str
    total_cap: Wei | None
    daily_cap: Wei | None
    created_at: int
    expires_at: int | None
    revoked_at: int | None


def add(transaction: Transaction, account: LocalAccount) -> bool:
    """Store an account; whether it is new.

    Raises:
        ConflictError: address or label is taken by another.
    """
    return insert_once(transaction, accounts, values_of(account), {"created_at"})


def by_address(transaction: Transaction, address: Account) -> LocalAccount | None:
    """The account of this address, if the home knows it."""
    return first(transaction, select(accounts).where(accounts.c.address == address), LocalAccount)


def by_label(transaction: Transaction, label: str) -> LocalAccount:
    """The account that goes by this label.

    Raises:
        NotFoundError: none does; the message holds the nearest ones.
    """
    found = first(transaction, select(accounts).where(accounts.c.label == label), LocalAccount)
    if found is None:
        known = transaction.connection.execute(select(accounts.c.label)).scalars()
        raise NotFoundError(f"there is no account {label!r}{did_you_mean(label, known)}")
    return found


def list_all(transaction: Transaction, kind: AccountKind | None = None) -> list[LocalAccount]:
    """Accounts by label."""
    query = select(accounts).order_by(accounts.c.label)
    if kind is not None:
        query = query.where(accounts.c.kind == kind.value)
    return every(transaction, query, LocalAccount)


def api_key(secret: str, account: Account, label: str, now: int) -> ApiKey:
    """Describe a new key without caps or end; `msgspec.structs.replace` sets them."""
    digest = Digest(sha256(secret.encode()).hexdigest())
    return ApiKey(secret[:PREFIX_LENGTH], digest, account, label, None, None, now, None, None)


def add_key(transaction: Transaction, key: ApiKey) -> bool:
    """Store a key; whether it is new.

    Raises:
        ConflictError: its prefix is taken (make another key), or the account is unknown.
    """
    return insert_once(transaction, api_keys, values_of(key), {"created_at"})


def authenticate(transaction: Transaction, secret: str, now: int) -> ApiKey:
    """Whose key this is.

    Raises:
        UnauthenticatedError: unknown, revoked or expired.
    """
    query = select(api_keys).where(api_keys.c.prefix == secret[:PREFIX_LENGTH])
    found = first(transaction, query, ApiKey)
    digest = sha256(secret.encode()).hexdigest()
    if found is None or not hmac.compare_digest(found.hash, digest):
        raise UnauthenticatedError("this API key is unknown; make one with `openledger wallet`")
    if found.revoked_at is not None and found.revoked_at <= now:
        raise UnauthenticatedError(f"the API key {found.prefix}... was revoked; make a new one")
    if found.expires_at is not None and found.expires_at <= now:
        raise UnauthenticatedError(f"the API key {found.prefix}... has expired; make a new one")
    return found


def revoke(transaction: Transaction, prefix: str, now: int) -> None:
    """Refuse this key from `now` on; the first revocation stands.

    Raises:
        NotFoundError: no such key.
    """
    if first(transaction, select(api_keys).where(api_keys.c.prefix == prefix), ApiKey) is None:
        raise NotFoundError(f"there is no API key {prefix}")
    change = api_keys.update().where(api_keys.c.prefix == prefix, api_keys.c.revoked_at.is_(None))
    transaction.connection.execute(change.values(revoked_at=now))


def keys_of(transaction: Transaction, account: Account) -> list[ApiKey]:
    """An account's keys, the oldest first."""
    query = select(api_keys).where(api_keys.c.account == account)
    return every(transaction, query.order_by(api_keys.c.created_at, api_keys.c.prefix), ApiKey)
