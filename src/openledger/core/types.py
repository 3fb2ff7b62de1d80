"""The nouns of the platform as types of their own.

An `Account` is a permanent address: its keys may change (contract `Identity`), the address never
does. A `Digest` is a sha256 in hex. Money is an integer of wei. None of them is ever a float.
"""

import re
from typing import Literal, NewType

import msgspec

from openledger.core.errors import InvalidInputError

Account = NewType("Account", str)  # "0x" and 40 lower-case hex digits
Digest = NewType("Digest", str)  # 64 lower-case hex digits
Wei = NewType("Wei", int)  # 10**18 wei are one OPEN
Precision = Literal["bfloat16", "float32"]  # of a base model's numbers
ReceiptId = NewType("ReceiptId", str)  # "rcp_" and 29 base32 characters, see `core.ids`

ZERO_ACCOUNT = Account("0x" + "0" * 40)
WEI_PER_OPEN = 10**18
PARTS_PER_BILLION = 1_000_000_000
BASIS_POINTS = 10_000

_ACCOUNT = re.compile(r"0x[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PATTERNS: dict[object, re.Pattern[str]] = {Account: _ACCOUNT, Digest: _DIGEST}


class Share(msgspec.Struct, frozen=True):
    """How much one contributor counted in one answer."""

    account: Account
    weight_ppb: int  # with the nobody share they sum to 1_000_000_000


class DatanetVersion(msgspec.Struct, frozen=True):
    """A Datanet as it stood after `sequence` changes; `head` binds every one of them."""

    datanet: int
    sequence: int
    head: Digest


def account(text: str) -> Account:
    """Read an address in any letter case.

    Raises:
        InvalidInputError: it is not 20 bytes of hex behind "0x".
    """
    lowered = text.strip().lower()
    if not _ACCOUNT.fullmatch(lowered):
        raise InvalidInputError(f"{text!r} is not an address: give 0x and 40 hex digits")
    return Account(lowered)


def digest(text: str) -> Digest:
    """Read a sha256 in hex, with or without "0x".

    Raises:
        InvalidInputError: it is not 32 bytes of hex.
    """
    lowered = text.strip().lower().removeprefix("0x")
    if not _DIGEST.fullmatch(lowered):
        raise InvalidInputError(f"{text!r} is not a digest: give 64 hex digits")
    return Digest(lowered)


def is_canonical(text: str, kind: object) -> bool:
    """Whether an `Account` or `Digest` is written in its one form; any other text is."""
    pattern = _PATTERNS.get(kind)
    return pattern is None or pattern.fullmatch(text) is not None


def as_bytes(value: Digest | Account) -> bytes:
    """Turn a digest into its 32 bytes, an account into its 20."""
    return bytes.fromhex(value.removeprefix("0x"))
