"""Find text that was contributed before, and by whom.

The index holds keyed digests (HMAC-SHA256) of folded text, so that a leaked index confirms no
guess; the key belongs to the network's custodian. Folding hides what a copier changes without
effort: case, blanks and compatibility forms. The first contributor keeps the credit.
"""

import hmac
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import sha256

import msgspec

from openledger.core.errors import DuplicateError, InvalidInputError
from openledger.core.types import Digest
from openledger.datanet.chunk import Chunk
from openledger.datanet.clean import Drop, Reason

KEY_BYTES = 32


class First(msgspec.Struct, frozen=True):
    """Who contributed a text first, in words for people."""

    contributor: str
    contribution: str


Known = Callable[[Digest], First | None]
"""Looks a fingerprint up among all earlier contributions of the network."""


class Distinct(msgspec.Struct, frozen=True):
    """The chunks that are new, each with its fingerprint, and what was dropped."""

    chunks: tuple[Chunk, ...]
    fingerprints: tuple[Digest, ...]
    drops: tuple[Drop, ...]


def fingerprint(key: bytes, text: str) -> Digest:
    """The keyed digest under which a text is known to the network.

    Raises:
        InvalidInputError: the key does not have 32 bytes.
    """
    if len(key) != KEY_BYTES:
        raise InvalidInputError(f"the key of a duplicate index has {KEY_BYTES} bytes")
    return Digest(hmac.new(key, fold(text).encode(), sha256).hexdigest())


def fold(text: str) -> str:
    """Text as it is compared: NFKC, case folded, runs of blanks as one space."""
    # NFKC brings forth letters that have a case of their own, so both steps are done twice
    # (Unicode 3.13, D146).
    for _ in range(2):
        text = unicodedata.normalize("NFKC", text.casefold())
    return " ".join(text.split())


def without_duplicates(chunks: Sequence[Chunk], key: bytes, known: Known) -> Distinct:
    """Leave out chunks that stand earlier in this contribution or in any other.

    Raises:
        DuplicateError: nothing is new; the message names the first contributor.
    """
    kept: dict[Digest, Chunk] = {}
    own = 0
    earlier: Counter[First] = Counter()
    for chunk in chunks:
        mark = fingerprint(key, chunk.text)
        first = known(mark)
        if first is not None:
            earlier[first] += 1
        elif mark in kept:
            own += 1
        else:
            kept[mark] = chunk
    if not kept and earlier:
        raise _all_known(earlier)
    return Distinct(tuple(kept.values()), tuple(kept), _drops(own, earlier))


def _all_known(earlier: Counter[First]) -> DuplicateError:
    first = min(earlier, key=lambda one: (-earlier[one], one.contribution))
    return DuplicateError(
        f"all of this was contributed before, first by {first.contributor} in contribution "
        f"{first.contribution}: contribute something new",
        contributor=first.contributor,
        contribution=first.contribution,
    )


def _drops(own: int, earlier: Counter[First]) -> tuple[Drop, ...]:
    lines = [Drop(Reason.OWN_DUPLICATE, own)] if own else []
    for first in sorted(earlier, key=lambda one: one.contribution):
        detail = f"first by {first.contributor} in contribution {first.contribution}"
        lines.append(Drop(Reason.DUPLICATE, earlier[first], detail))
    return tuple(lines)
