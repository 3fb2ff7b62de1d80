"""Which documents say nothing: those whose words could as well stand in any other order.

Words at random and a subject's words heaped up are no likelier as they stand than shuffled, for
the base model, which has seen neither. No answer can have come from what they say; their scores
are noise. A document is compared word by word with shuffles of itself: it says something where the
gain stands clear of its own scatter and is not far below what is usual in the release. Where a base
hardly reads a release's language, sense and nonsense cannot be told apart, and nobody is judged.
"""

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

import msgspec
import numpy as np

from openledger.attribution.influence.gradients import ProbedModel, log_chances
from openledger.attribution.method import (
    SENSE_DEVIATIONS,
    SENSE_DIVISOR,
    SENSE_LEAST_WORDS,
    SENSE_MEDIAN_DEVIATIONS,
    SENSE_ROWS,
    SENSE_SHUFFLES,
    SENSE_TOKENS,
)

_TOGETHER = 32  # rows in one pass
_WORD_TOKENS = 4  # of text without blanks, so many tokens are taken for a word

Rows = Sequence[Sequence[int]]
Word = tuple[int, ...]  # token ids, the first of which begins with a blank


def says_nothing(
    model: ProbedModel, documents: Sequence[Rows], stream: np.random.Generator
) -> list[bool]:
    """Whether each document, given by its rows of token ids, reads like its own words shuffled."""
    texts = [[_words(model, window) for window in _windows(rows, stream)] for rows in documents]
    gains = _gains(model, [words for text in texts for words in text], stream)
    bounds = np.cumsum([0, *map(len, texts)])
    found = [_order(np.concatenate(gains[start:end])) for start, end in pairwise(bounds)]
    judged = [one for one in found if one is not None]
    if not judged or median(one.deviations for one in judged) < SENSE_MEDIAN_DEVIATIONS:
        return [False] * len(documents)
    least = median(one.nats for one in judged) / SENSE_DIVISOR
    return [
        one is not None and (one.deviations < SENSE_DEVIATIONS or one.nats < least) for one in found
    ]


class _Order(msgspec.Struct, frozen=True):
    """What the order of a document's words is worth."""

    nats: float  # by which a word is likelier in its place, on average
    deviations: float  # the same in its standard errors


def _windows(rows: Rows, stream: np.random.Generator) -> list[Sequence[int]]:
    """One stretch of each of some rows, spread evenly over the document."""
    chosen = rows[:: -(-len(rows) // SENSE_ROWS)]
    starts = [int(stream.integers(max(1, len(row) - SENSE_TOKENS + 1))) for row in chosen]
    return [row[at : at + SENSE_TOKENS] for row, at in zip(chosen, starts, strict=True)]


def _words(model: ProbedModel, window: Sequence[int]) -> list[Word]:
    words: list[Word] = []
    for token in window:
        begins = model.base.tokenizer.token_bytes(token)[:1].isspace()
        if not words or begins or len(words[-1]) == _WORD_TOKENS:
            words.append(())
        words[-1] += (token,)
    return words


def _gains(
    model: ProbedModel, texts: Sequence[Sequence[Word]], stream: np.random.Generator
) -> list[np.ndarray]:
    """By text, nats by which each word is likelier in its place than in shuffles of the text."""
    places = [np.arange(len(words)) for words in texts]
    plain = _word_logs(model, texts, places)
    shuffled = []
    for _ in range(SENSE_SHUFFLES):
        orders = [np.argsort(stream.random(len(words)), kind="stable") for words in texts]
        shuffled.append(_word_logs(model, texts, orders))
    others = [np.mean(some, axis=0) for some in zip(*shuffled, strict=True)]
    return [one - other for one, other in zip(plain, others, strict=True)]


def _word_logs(
    model: ProbedModel, texts: Sequence[Sequence[Word]], orders: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """By text, the log-probability under the base of each word, standing in this order."""
    found = []
    for start in range(0, len(texts), _TOGETHER):
        some = [
            [words[i] for i in order]
            for words, order in zip(
                texts[start : start + _TOGETHER], orders[start : start + _TOGETHER], strict=True
            )
        ]
        rows = [[token for word in words for token in word] for words in some]
        batch = model.batch(rows, [1] * len(rows))
        states = model.upper(batch, is_adapted=False)
        logs = log_chances(model, batch, states, states.dtype).numpy()
        ends = np.cumsum([len(row) - 1 for row in rows])
        for words, part in zip(some, np.split(logs, ends[:-1]), strict=True):
            starts = np.cumsum([0, *(len(word) for word in words[:-1])])
            # Nothing stands before the first token, which has no likelihood here.
            found.append(np.add.reduceat(np.concatenate([[0.0], part]), starts))
    return [_unsorted(logs, order) for logs, order in zip(found, orders, strict=True)]


def _unsorted(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    placed = np.empty(len(values))
    placed[order] = values
    return placed


def _order(gains: np.ndarray) -> _Order | None:
    """From the gains of single words; None where they are too few."""
    if len(gains) < SENSE_LEAST_WORDS:
        return None
    error = float(gains.std(ddof=1)) / len(gains) ** 0.5
    nats = float(gains.mean())
    return _Order(nats, nats / error if error else 0.0)
