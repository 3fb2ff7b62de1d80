"""Scores by what document and answer have literally in common; the model is not asked."""

import re

import numpy as np

from bench.attribution.setting import Setting

# Letters keep their case: in tunes it is the octave, in code another name.
_WORD = re.compile(r"\w+")
_BETWEEN = -1  # stands after each document and equals no token


def bm25(setting: Setting) -> np.ndarray:
    """(N, Q) Okapi BM25 of the document's text for the answer's words, by the package bm25s."""
    from bm25s import BM25

    index = BM25()
    index.index([_words(one.text) for one in setting.documents], show_progress=False)
    answers = [_words(setting.base.tokenizer.decode(one.answer)) for one in setting.queries]
    scores = np.zeros((len(setting.documents), len(setting.queries)))
    for query, words in enumerate(answers):
        if words:  # the package does not look for nothing
            scores[:, query] = index.get_scores(words)
    return scores


def longest_span(setting: Setting) -> np.ndarray:
    """(N, Q) the length in tokens of the longest run of the answer that the document holds."""
    rows = [(*document.tokens, _BETWEEN) for document in setting.documents]
    starts = np.cumsum([0, *map(len, rows[:-1])])
    texts = np.concatenate([np.array(row, dtype=np.int64) for row in rows])  # (T,)
    columns = [_longest(texts, one.answer) for one in setting.queries]
    return np.stack([np.maximum.reduceat(one, starts) for one in columns], axis=1)


def _words(text: str) -> list[str]:
    return _WORD.findall(text)


def _longest(texts: np.ndarray, answer: tuple[int, ...]) -> np.ndarray:
    """(T,) how long a run of the answer at most ends at each token of the texts."""
    longest, ending = np.zeros(len(texts)), np.zeros(len(texts))
    for token in answer:
        before = np.concatenate([[0.0], ending[:-1]])
        ending = np.where(texts == token, before + 1, 0.0)
        longest = np.maximum(longest, ending)
    return longest
