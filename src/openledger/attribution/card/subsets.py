"""Which documents each half-data adapter of a release is trained on.

The halves follow from the seed of the run, which nobody knew when recipe and data were anchored, so
they need not be stored and cannot be chosen. They are halves of the contributors; with fewer than
four of those, of the content clusters. Each half is drawn to overlap as little as can be with those
before it: the effects of the units are then told apart by fewer adapters than by halves drawn at
random.
"""

from collections.abc import Sequence
from hashlib import sha256

import msgspec
import numpy as np

from openledger.core.errors import InvalidInputError
from openledger.core.types import Digest

LEAST_ADAPTERS = 16
_EVERY = 4  # for so many half-data adapters one more is trained on a half of the clusters
_LEAST_UNITS = 4  # of fewer, there are hardly any halves to tell apart
_CANDIDATES = 256


class Halves(msgspec.Struct, frozen=True):
    """What each of K adapters keeps of N documents."""

    kept: np.ndarray  # (K, N) 0 or 1
    by_contributor: bool  # halves of the contributors, else of the content clusters


def check_count(count: int) -> None:
    """Check how many half-data adapters are asked for; none is as good as sixteen.

    Raises:
        InvalidInputError: too few to tell anything, or no multiple of four.
    """
    if count and (count < LEAST_ADAPTERS or count % _EVERY):
        raise InvalidInputError(
            f"a card needs a multiple of {_EVERY} half-data adapters, {LEAST_ADAPTERS} at least, "
            f"not {count}"
        )


def check_units(texts: int) -> None:
    """Check that there is enough to halve where contributors are too few.

    Raises:
        InvalidInputError: there are fewer than four texts that are not alike.
    """
    if texts < _LEAST_UNITS:
        raise InvalidInputError(
            f"a card needs {_LEAST_UNITS} contributors, or so many texts that are not alike; this "
            f"data has {texts}: train without half-data adapters, or on more data"
        )


def can_halve(contributors: Sequence[str], clusters: Sequence[int]) -> bool:
    """Whether there are enough of one of both, of each document, to draw halves."""
    return max(len(set(contributors)), len(set(clusters))) >= _LEAST_UNITS


def halves(
    seed: Digest, contributors: Sequence[str], clusters: Sequence[int], count: int
) -> Halves:
    """Draw the halves of a release.

    Args:
        seed: of the run.
        contributors: of each document.
        clusters: of each document.
        count: K.

    Raises:
        InvalidInputError: a wrong K, or fewer than four contributors and clusters each.
    """
    check_count(count)
    by_contributor = len(set(contributors)) >= _LEAST_UNITS
    if by_contributor:
        return Halves(_drawn(seed, "contributors", _places(contributors), count), by_contributor)
    check_units(len(set(clusters)))
    return Halves(_drawn(seed, "clusters", _places(clusters), count), by_contributor)


def cluster_halves(seed: Digest, clusters: Sequence[int], count: int) -> np.ndarray:
    """(K / 4, N) halves of the content clusters: K halves of contributors say nothing of documents.

    The adapters trained on them measure how single documents are scored; they correct nothing.
    """
    return _drawn(seed, "clusters", _places(clusters), count // _EVERY)


def without_each(contributors: Sequence[str]) -> np.ndarray:
    """(C, N): all documents but those of one contributor, in the order of their first ones."""
    owner = _places(contributors)
    return np.array([owner != one for one in range(int(owner.max()) + 1)], np.int8)


def seed_of_half(seed: bytes, number: int) -> bytes:
    """The seed that a run of this seed trains its `number`-th half-data adapter from, from 0."""
    return sha256(seed + f"half {number}".encode()).digest()


def fractions(kept: np.ndarray, groups: Sequence[int]) -> np.ndarray:
    """(K, G): which part of each group's documents was kept, of (K, N) `kept`."""
    member = np.zeros((len(groups), max(groups) + 1))
    member[np.arange(len(groups)), list(groups)] = 1
    found: np.ndarray = kept @ member / member.sum(0)
    return found


def _places(names: Sequence[str] | Sequence[int]) -> np.ndarray:
    place = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.array([place[name] for name in names], np.int64)


def _drawn(seed: Digest, purpose: str, unit_of: np.ndarray, count: int) -> np.ndarray:
    """(count, N) halves of the units, each the least alike those before among some at random."""
    mixed = sha256(f"openledger halves {purpose} 1 {seed}".encode()).digest()[:16]
    stream = np.random.Generator(np.random.Philox(key=int.from_bytes(mixed, "big")))
    units = int(unit_of.max(initial=-1)) + 1
    half = np.where(np.arange(units) < units // 2, 1, -1)
    rows = np.zeros((0, units), np.int64)
    for _ in range(count):
        candidates = stream.permuted(np.tile(half, (_CANDIDATES, 1)), axis=1)
        alike = ((candidates @ rows.T) ** 2).sum(1) + ((candidates + rows.sum(0)) ** 2).sum(1)
        rows = np.vstack([rows, candidates[alike.argmin()]])
    kept: np.ndarray = (rows[:, unit_of] > 0).astype(np.int8)
    return kept
