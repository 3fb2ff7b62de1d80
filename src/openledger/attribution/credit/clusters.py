"""Content clusters: documents that say the same stand or fall together, whoever brought them.

The clusters of a release depend on nothing but its texts: not on accounts, not on the order in
which documents came. A text joins the cluster in whose first text most of its shingles stand, or
founds one; likeness is always to that first text, so that clusters do not creep along chains.
Past a fixed number of clusters every text joins the nearest, so that scoring an answer costs the
same whatever the number of documents.
"""

from collections import Counter
from collections.abc import Sequence
from hashlib import sha256

from openledger.attribution.credit.shingles import boilerplate, folded, shingles, telling
from openledger.attribution.method import MOST_CLUSTERS, SAME_CONTENT_PERCENT


def cluster(texts: Sequence[str], most: int = MOST_CLUSTERS) -> list[int]:
    """The cluster of each text, numbered from 0 in the order of first appearance.

    There are at most `most` of them.
    """
    found = {text: set(shingles(folded(text))) for text in sorted(set(texts), key=_canonical)}
    common = boilerplate(found.values())
    founders = _Founders(most)
    founder_of = {
        text: founders.place(set(telling([*some], common)), some) for text, some in found.items()
    }
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
