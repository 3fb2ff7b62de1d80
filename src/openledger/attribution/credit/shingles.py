"""Shingles: the short runs of bytes by which texts are compared, and which of them tell something.

A text is folded as the network's duplicate index folds it (case, compatibility forms), and white
space is taken out, so that what a copier changes without effort changes nothing. Shingles of many
texts (headers, licences, closing lines) are boiler-plate and tell nothing.
"""

from collections import Counter
from collections.abc import Iterable, Sequence, Set

from openledger.attribution.method import (
    BOILERPLATE_LEAST,
    BOILERPLATE_PERCENT,
    SHINGLE_BYTES,
    TELLING_DIVISOR,
)
from openledger.datanet.duplicates import fold


def folded(text: str) -> bytes:
    """The bytes that are compared."""
    return "".join(fold(text).split()).encode()


def shingles(raw: bytes) -> list[bytes]:
    """Every run of bytes of a fixed length, in order; of less, all of it is one."""
    return [raw[i : i + SHINGLE_BYTES] for i in range(max(1, len(raw) - SHINGLE_BYTES + 1))]


def boilerplate(texts: Iterable[Set[bytes]]) -> set[bytes]:
    """The shingles that too many of these distinct texts have."""
    spread: Counter[bytes] = Counter()
    count = 0
    for some in texts:
        spread.update(some)
        count += 1
    most = max(BOILERPLATE_LEAST, count * BOILERPLATE_PERCENT // 100)
    return {shingle for shingle, holders in spread.items() if holders > most}


def telling(some: Sequence[bytes], common: Set[bytes]) -> list[bytes]:
    """Those that tell; all of them where few do, since many near copies make a text look common."""
    own = [shingle for shingle in some if shingle not in common]
    return own if TELLING_DIVISOR * len(own) >= len(some) else list(some)
