"""Names of things: receipt ids, release names, near names for a typing error.

A receipt id is "rcp_", 128 random bits in lower-case base32 (26 characters) and 3 characters of
checksum, so that a mistyped id is told from an unknown one. A release is `owner/name@n`.
"""

import base64
import difflib
import re
from collections.abc import Iterable
from hashlib import sha256

import msgspec

from openledger.core.errors import InvalidInputError
from openledger.core.types import ReceiptId

RANDOM_BYTES = 16
_CHECKSUM_LENGTH = 3
_NAME = re.compile(r"(?P<owner>[a-z0-9][a-z0-9-]{0,38})/(?P<name>[a-z0-9][a-z0-9._-]{0,62})")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_SUGGESTIONS = 3


class ReleaseName(msgspec.Struct, frozen=True):
    """`owner/name@version`; without a version, the newest that is not deprecated."""

    owner: str
    name: str
    version: int | None

    def __str__(self) -> str:
        tail = "" if self.version is None else f"@{self.version}"
        return f"{self.owner}/{self.name}{tail}"


def receipt_id(random: bytes) -> ReceiptId:
    """Make the id of a receipt from 16 random bytes."""
    if len(random) != RANDOM_BYTES:
        raise InvalidInputError(f"a receipt id takes {RANDOM_BYTES} random bytes")
    return ReceiptId("rcp_" + _base32(random) + _checksum(random))


def parse_receipt_id(text: str) -> ReceiptId:
    """Read a receipt id, or the completion id that holds one.

    Raises:
        InvalidInputError: wrong length, characters or checksum.
    """
    body = text.strip().removeprefix("chatcmpl-").removeprefix("cmpl-")
    stem = body.removeprefix("rcp_")
    try:
        random = base64.b32decode(stem[:-_CHECKSUM_LENGTH].upper() + "======")
    except ValueError as error:
        raise InvalidInputError(f"{text!r} is not a receipt id") from error
    if len(random) != RANDOM_BYTES or body != receipt_id(random):
        raise InvalidInputError(f"{text!r} is not a receipt id: its checksum is wrong")
    return ReceiptId(body)


def parse_release_name(text: str) -> ReleaseName:
    """Read `owner/name` or `owner/name@version`.

    Raises:
        InvalidInputError: it is neither.
    """
    stem, at, version = text.strip().partition("@")
    match = _NAME.fullmatch(stem)
    if match is None or (at and not _VERSION.fullmatch(version)):
        raise InvalidInputError(f"{text!r} is not a model name: write owner/name or owner/name@2")
    return ReleaseName(match["owner"], match["name"], int(version) if at else None)


def near_names(wanted: str, known: Iterable[str]) -> list[str]:
    """At most three known names that look like the wanted one, best first."""
    return difflib.get_close_matches(wanted, list(known), n=_SUGGESTIONS, cutoff=0.4)


def did_you_mean(wanted: str, known: Iterable[str]) -> str:
    """The tail of a not-found message: the nearest names, or nothing."""
    names = near_names(wanted, known)
    return f"; did you mean {', '.join(names)}?" if names else ""


def _checksum(random: bytes) -> str:
    return _base32(sha256(b"openledger receipt id" + random).digest())[:_CHECKSUM_LENGTH]


def _base32(raw: bytes) -> str:
    return base64.b32encode(raw).decode().rstrip("=").lower()
