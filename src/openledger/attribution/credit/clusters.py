"""Content clusters: documents that say the same stand or fall together, whoever brought them.

The clusters of a release depend on nothing but its texts: not on accounts, not on the order in
which documents came. A text joins the cluster in whose first text most of its shingles stand, or
founds one; likeness is always to that first text, so that clusters do not creep along chains.
Shingles of many documents (headers, licences, closing lines) are boiler-plate and tell nothing.
Past a fixed number of clusters every text joins the nearest, so that scoring an answer costs the
same whatever the number of documents.
"""

from collections import Counter
from collections.abc import Sequence
from hashlib import sha256

from openledger.attribution.method import (
    BOILERPLATE_LEAST,
    BOILERPLATE_PERCENT,
    MOST_CLUSTERS,
    SAME_CONTENT_PERCENT,
    SHINGLE_BYTES,
    TELLING_DIVISOR,
)


def cluster(texts: Sequence[str], most: int = MOST_CLUSTERS) -> list[int]:
    """The cluster of each text, numbered from 0 in the order of first appearance.

    There are at most `most` of them.
    """
    shingles = {text: _shingles(text) for text in sorted(set(texts), key=_canonical)}
    spread = Counter(shingle for some in shingles.values() for shingle in some)
    common = max(BOILERPLATE_LEAST, len(shingles) * BOILERPLATE_PERCENT // 100)
    founders = _Founders(most)
    founder_of = {}
    for text, some in shingles.items():
        own = {shingle for shingle in some if spread[shingle] <= common}
        # Many near copies of one text make all of it look like boiler-plate.
        telling = own if TELLING_DIVISOR * len(own) >= len(some) else some
        founder_of[text] = founders.place(telling, some)
    numbers: dict[int, int] = {}
    return [numbers.setdefault(founder_of[text], len(numbers)) for text in texts]


class _Founders:
    """The clusters so far, numbered, by the shingles of their first texts."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._holders: dict[bytes, list[int]] = {}

    def place(self, telling: set[bytes], shingles: set[bytes]) -> int:
        """The cluster that a text joins; a new one if it is like none."""
        found = Counter(f for shingle in telling for f in self._holders.get(shingle, ()))
        nearest = max(found, key=lambda founder: (found[founder], -founder), default=0)
        is_same = 100 * found[nearest] >= SAME_CONTENT_PERCENT * len(telling)
        if (self._count and is_same) or self._count >= self._most:
            return nearest
        for shingle in shingles:
            self._holders.setdefault(shingle, []).append(self._count)
        self._count += 1
        return self._count - 1


def _canonical(text: str) -> tuple[int, bytes]:
    """Longest first, so that a part joins the whole; equal lengths by digest, never by arrival."""
    raw = text.encode()
    return -len(raw), sha256(raw).digest()


def _shingles(text: str) -> set[bytes]:
    """Every run of bytes of a fixed length, white space taken out."""
    raw = "".join(text.split()).encode()
    return {raw[i : i + SHINGLE_BYTES] for i in range(max(1, len(raw) - SHINGLE_BYTES + 1))}
