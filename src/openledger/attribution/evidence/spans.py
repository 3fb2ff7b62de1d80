"""Passages of an answer that stand word for word in the training texts.

A word is a run of characters without white space, and white space itself does not count. All that
follows the rule of OLMoTrace (arXiv 2504.07096): of the maximal matching passages of at least six
words, those are kept whose words are rarest together, by the product of their frequencies, one for
every twenty words of the answer; and the documents that hold them are ordered by BM25 against the
whole answer. No passage runs over the end of a document. A match says that the words are the same,
not that the text was the answer's cause: nobody is paid by it.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

LEAST_WORDS = 6
WORDS_PER_SPAN = 20  # of the answer, for each passage that is kept
MOST_PLACES = 10  # documents shown for a passage
_LOOKED_AT = 1_000  # documents compared for them
_UNKNOWN = -1  # a word of the answer that no training text has
_BM25_K, _BM25_B = 1.2, 0.75
_WORD = re.compile(r"\S+")


class Place(msgspec.Struct, frozen=True):
    """Where a passage stands in a document; the first time, if there are several."""

    document: int
    start: int  # characters
    end: int


class Span(msgspec.Struct, frozen=True):
    """A passage of the answer, and the best documents that hold it."""

    start: int  # characters of the answer
    end: int
    words: int
    places: tuple[Place, ...]  # the best first
    documents: int  # how many hold it in all


class _Match(msgspec.Struct, frozen=True):
    first: int  # words of the answer
    count: int
    low: int  # rows of the suffix array
    high: int


class Passages:
    """A suffix array over the words of some documents."""

    def __init__(self, texts: Mapping[int, str]) -> None:
        """`texts` are by the number of their document."""
        self._numbers = sorted(texts)
        self._bounds = [[found.span() for found in _WORD.finditer(texts[n])] for n in self._numbers]
        self._ids: dict[str, int] = {}
        rows = [
            [
                self._ids.setdefault(texts[number][start:end], len(self._ids))
                for start, end in bounds
            ]
            for number, bounds in zip(self._numbers, self._bounds, strict=True)
        ]
        # Each document ends with a word of its own, which no answer has.
        ends = [[_UNKNOWN - 1 - place] for place in range(len(rows))]
        pieces = [[*row, *end] for row, end in zip(rows, ends, strict=True)]
        self._words = np.array([word for piece in pieces for word in piece], np.int64)
        self._starts = np.cumsum([0, *map(len, pieces)])
        self._suffixes = suffix_array(self._words)
        known = self._words[self._words >= 0]
        self._counts = np.bincount(known, minlength=len(self._ids))
        self._spread = Counter(word for row in rows for word in set(row))

    def find(self, answer: str) -> list[Span]:
        """The kept passages, by their place in the answer."""
        bounds = [found.span() for found in _WORD.finditer(answer)]
        words = np.array([self._ids.get(answer[s:e], _UNKNOWN) for s, e in bounds], np.int64)
        longest = self._maximal(words)
        longest.sort(key=lambda match: (self._log_chance(words, match), match.first))
        kept = sorted(longest[: -(-len(words) // WORDS_PER_SPAN)], key=lambda match: match.first)
        return [self._span(match, words, bounds) for match in kept]

    def _maximal(self, words: np.ndarray) -> list[_Match]:
        matches, reached = [], 0
        for first in range(len(words) - LEAST_WORDS + 1):
            count = self._longest(words[first:])
            # What begins later never ends earlier, so a longer reach is all that makes one new.
            if count >= LEAST_WORDS and first + count > reached:
                pattern = words[first : first + count]
                low, high = (self._rows_before(pattern, is_same_before=b) for b in (False, True))
                matches.append(_Match(first, count, low, high))
            reached = max(reached, first + count)
        return matches

    def _longest(self, pattern: np.ndarray) -> int:
        """The most words that the pattern and some document begin alike."""
        row = self._rows_before(pattern, is_same_before=False)
        near = self._suffixes[max(0, row - 1) : row + 1]
        return max((_alike(self._words[place:], pattern) for place in near), default=0)

    def _rows_before(self, pattern: np.ndarray, *, is_same_before: bool) -> int:
        """How many suffixes sort before the pattern, or with it those that begin with it."""
        low, high = 0, len(self._suffixes)
        while low < high:
            middle = (low + high) // 2
            if self._is_before(int(self._suffixes[middle]), pattern, is_same_before):
                low = middle + 1
            else:
                high = middle
        return low

    def _is_before(self, place: int, pattern: np.ndarray, is_same_before: bool) -> bool:
        suffix = self._words[place : place + len(pattern)]
        alike = _alike(suffix, pattern)
        if alike == len(pattern):
            return is_same_before
        return alike == len(suffix) or bool(suffix[alike] < pattern[alike])

    def _log_chance(self, words: np.ndarray, match: _Match) -> float:
        counts = self._counts[words[match.first : match.first + match.count]]
        return float(np.log(counts / self._counts.sum()).sum())

    def _span(self, match: _Match, words: np.ndarray, bounds: Sequence[tuple[int, int]]) -> Span:
        places = np.sort(self._suffixes[match.low : match.high])
        owners = np.searchsorted(self._starts, places, side="right") - 1
        holders, firsts = np.unique(owners, return_index=True)
        pairs = zip(holders.tolist(), places[firsts].tolist(), strict=True)
        ranked = sorted([*pairs][:_LOOKED_AT], key=lambda pair: -self._bm25(pair[0], words))
        last = match.first + match.count - 1
        return Span(
            start=bounds[match.first][0],
            end=bounds[last][1],
            words=match.count,
            places=tuple(self._place(*pair, match.count) for pair in ranked[:MOST_PLACES]),
            documents=len(holders),
        )

    def _place(self, holder: int, place: int, count: int) -> Place:
        first = place - int(self._starts[holder])
        bounds = self._bounds[holder]
        return Place(self._numbers[holder], bounds[first][0], bounds[first + count - 1][1])

    def _bm25(self, holder: int, words: np.ndarray) -> float:
        start, end = self._starts[holder], self._starts[holder + 1] - 1
        held = self._words[start:end]
        mean = (len(self._words) - len(self._numbers)) / len(self._numbers)
        norm = _BM25_K * (1 - _BM25_B + _BM25_B * len(held) / mean)
        times = Counter(held[np.isin(held, words)].tolist())
        return sum(
            self._worth(word) * count * (_BM25_K + 1) / (count + norm)
            for word, count in sorted(times.items())
        )

    def _worth(self, word: int) -> float:
        holders = self._spread[word]
        return math.log(1 + (len(self._numbers) - holders + 0.5) / (holders + 0.5))


def suffix_array(words: np.ndarray) -> np.ndarray:
    """The places of (N,) integers, sorted by what follows from there; by prefix doubling.

    In each round suffixes are in the order of twice as many words as before, so that a few sorts
    are enough whatever the texts.
    """
    _, ranks = np.unique(words, return_inverse=True)
    order, width = np.argsort(ranks, kind="stable"), 1
    while len(words) and ranks.max() < len(words) - 1:
        behind = np.zeros_like(ranks)  # an end sorts before every word
        behind[:-width] = ranks[width:] + 1
        keys = ranks * (len(words) + 1) + behind
        order = np.argsort(keys, kind="stable")
        sorted_keys = keys[order]
        ranks = np.empty_like(ranks)
        ranks[order] = np.cumsum(np.concatenate([[0], sorted_keys[1:] != sorted_keys[:-1]]))
        width *= 2
    return order


def _alike(left: np.ndarray, right: np.ndarray) -> int:
    """How many words two runs begin alike."""
    length = min(len(left), len(right))
    differ = np.flatnonzero(left[:length] != right[:length])
    return int(differ[0]) if len(differ) else length
