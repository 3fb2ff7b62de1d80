"""Names of things: receipt ids, release names, names of mixes, near names for a typing error.

A receipt id is "rcp_", 128 random bits in lower-case base32 (26 characters) and 3 characters of
checksum, so that a mistyped id is told from an unknown one. A release is `owner/name@n`, a weighted
sum of releases `mix:owner/name@n*0.7+other/name*0.3`.
"""

import base64
import difflib
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from hashlib import sha256

import msgspec

from openledger.core.errors import InvalidInputError
from openledger.core.types import PARTS_PER_BILLION, ReceiptId

RANDOM_BYTES = 16
MIX = "mix:"
MOST_WEIGHT = 10  # of a member of a mix, to either side of 0
_CHECKSUM_LENGTH = 3
_OWNER, _TITLE, _NUMBER = "[a-z0-9][a-z0-9-]{0,38}", "[a-z0-9][a-z0-9._-]{0,62}", "[1-9][0-9]{0,8}"
_NAME = re.compile(f"(?P<owner>{_OWNER})/(?P<name>{_TITLE})")
_VERSION = re.compile(_NUMBER)
_WEIGHT = re.compile(r"-?[0-9]+(\.[0-9]+)?")  # no exponent: its "+" would begin a member
_DECIMALS = len(str(PARTS_PER_BILLION)) - 1
_MOST_DIGITS = len(str(MOST_WEIGHT * PARTS_PER_BILLION))
_SUGGESTIONS = 3

# For those who check before they ask; what no pattern can say is not in them.
RELEASE_PATTERN = f"{_OWNER}/{_TITLE}(@{_NUMBER})?"
WEIGHT_PATTERN = r"-?([0-9](\.[0-9]{1,9})?|10(\.0{1,9})?)"
MIX_PATTERN = (
    rf"mix:{RELEASE_PATTERN}(\*{WEIGHT_PATTERN})?(\+{RELEASE_PATTERN}(\*{WEIGHT_PATTERN})?)*"
)
RECEIPT_PATTERN = "((chat)?cmpl-)?rcp_[a-z2-7]{29}"


class ReleaseName(msgspec.Struct, frozen=True):
    """`owner/name@version`; without a version, the newest that is not deprecated."""

    owner: str
    name: str
    version: int | None

    def __str__(self) -> str:
        tail = "" if self.version is None else f"@{self.version}"
        return f"{self.owner}/{self.name}{tail}"


class WeightedName(msgspec.Struct, frozen=True):
    """One member of a mix; a release that is called alone has the weight 1."""

    name: ReleaseName
    weight_ppb: int = PARTS_PER_BILLION


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


def parse_model(text: str) -> tuple[WeightedName, ...]:
    """Read what a caller may name as a model: a release, or a mix of releases in any order.

    Raises:
        InvalidInputError: it is neither, weights are finer or larger than they may be, or they
            sum to 0.
    """
    stripped = text.strip()
    if not stripped.startswith(MIX):
        return (WeightedName(parse_release_name(stripped)),)
    return checked_mix([_parse_member(one) for one in stripped.removeprefix(MIX).split("+")])


def checked_mix(members: Sequence[WeightedName]) -> tuple[WeightedName, ...]:
    """These members, if they can be a mix by themselves.

    Raises:
        InvalidInputError: there is none, none weighs anything, or the weights sum to 0.
    """
    if not any(member.weight_ppb for member in members):
        raise InvalidInputError("a mix needs a release whose weight is not 0; give it one")
    if sum(member.weight_ppb for member in members) == 0:
        raise InvalidInputError(
            "the weights of a mix sum to 0, so it has no direction of its own; weigh its members "
            "unevenly"
        )
    return tuple(members)


def model_text(members: Iterable[tuple[str, int]]) -> str:
    """Name a model as a caller does, from names of releases and their weights in ppb."""
    found = list(members)
    if [weight for _, weight in found] == [PARTS_PER_BILLION]:
        return found[0][0]
    return MIX + "+".join(f"{name}*{_decimal(weight)}" for name, weight in found)


def weight_ppb(weight: Decimal) -> int:
    """The weight of a member in parts per billion, exactly.

    Raises:
        InvalidInputError: it is not finite, finer than a part per billion, or beyond `MOST_WEIGHT`.
    """
    sign, digits, exponent = weight.as_tuple()
    if not isinstance(exponent, int):
        raise InvalidInputError(f"the weight {weight} is no finite number; give one such as 0.7")
    # By its digits: decimal arithmetic would round, and a huge exponent would fill the memory.
    significant = "".join(map(str, digits)).lstrip("0")
    shift = exponent + _DECIMALS
    kept, dropped = significant, ""
    if shift < 0:
        kept, dropped = significant[:shift], significant[shift:]
    if dropped.strip("0"):
        raise InvalidInputError(f"a weight has at most {_DECIMALS} decimals; round it")
    size = 0
    if kept:
        is_short = len(kept) + max(0, shift) <= _MOST_DIGITS
        size = int(kept) * 10 ** max(0, shift) if is_short else MOST_WEIGHT * PARTS_PER_BILLION + 1
    if size > MOST_WEIGHT * PARTS_PER_BILLION:
        raise InvalidInputError(f"a weight lies between -{MOST_WEIGHT} and {MOST_WEIGHT}; scale it")
    return -size if sign else size


def near_names(wanted: str, known: Iterable[str]) -> list[str]:
    """At most three known names that look like the wanted one, best first."""
    return difflib.get_close_matches(wanted, list(known), n=_SUGGESTIONS, cutoff=0.4)


def did_you_mean(wanted: str, known: Iterable[str]) -> str:
    """The tail of a not-found message: the nearest names, or nothing."""
    names = near_names(wanted, known)
    return f"; did you mean {', '.join(names)}?" if names else ""


def _parse_member(text: str) -> WeightedName:
    name, star, weight = text.partition("*")
    if not star:
        return WeightedName(parse_release_name(name))
    if not _WEIGHT.fullmatch(weight.strip()):
        raise InvalidInputError(f"{weight!r} is no weight; write a decimal such as 0.7")
    return WeightedName(parse_release_name(name), weight_ppb(Decimal(weight.strip())))


def _decimal(weight: int) -> str:
    whole, rest = divmod(abs(weight), PARTS_PER_BILLION)
    digits = f"{whole}.{rest:0{_DECIMALS}d}".rstrip("0").rstrip(".")
    return f"-{digits}" if weight < 0 else digits


def _checksum(random: bytes) -> str:
    return _base32(sha256(b"openledger receipt id" + random).digest())[:_CHECKSUM_LENGTH]


def _base32(raw: bytes) -> str:
    return base64.b32encode(raw).decode().rstrip("=").lower()
