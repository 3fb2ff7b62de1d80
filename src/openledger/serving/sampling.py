"""Draw the next token from logits, so that anyone with the seed draws the same one.

Token number n of a request uses the n-th number of a generator that belongs to the request alone:
sha256(seed || n). What else the engine serves at the time cannot change an answer.
"""

from collections import Counter
from collections.abc import Sequence
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from openledger.core.errors import EngineFaultError
from openledger.serving.request import Sampling, Token

_GREEDY_BELOW = 1e-5  # the second likeliest has no chance there, and dividing would overflow
_CANDIDATES = 1_024  # tried first for top_p; the likeliest 1,024 nearly always hold enough


class Sampler:
    """Draws the tokens of one request, in order."""

    def __init__(self, sampling: Sampling, prompt_ids: Sequence[int]) -> None:
        self._sampling = sampling
        self._seen = set(prompt_ids)
        self._made: Counter[int] = Counter()
        self._position = 0

    def draw(self, logits: NDArray[np.float32]) -> Token:
        """Choose from (V,) logits.

        Raises:
            EngineFaultError: a logit is not a finite number.
        """
        exact = logits.astype(np.float64)
        if not np.isfinite(exact).all():
            raise EngineFaultError("the model produced a logit that is not a finite number")
        chosen = self._choose(self._penalised(exact))
        self._seen.add(chosen)
        self._made[chosen] += 1
        self._position += 1
        return Token(chosen, float(exact[chosen] - _log_sum_exp(exact)))

    def _penalised(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        how = self._sampling
        if how.repetition_penalty == 1 and not (how.presence_penalty or how.frequency_penalty):
            return logits
        logits = logits.copy()
        seen = np.fromiter(self._seen, np.int64)
        # As CTRL (arXiv 1909.05858) and transformers do: a negative logit is multiplied.
        factor = np.where(logits[seen] > 0, 1 / how.repetition_penalty, how.repetition_penalty)
        logits[seen] *= factor
        for token, count in self._made.items():
            logits[token] -= how.presence_penalty + how.frequency_penalty * count
        return logits

    def _choose(self, logits: NDArray[np.float64]) -> int:
        how = self._sampling
        if how.temperature < _GREEDY_BELOW:
            return int(logits.argmax())
        weights = np.exp((logits - logits.max()) / how.temperature)  # (V,)
        kept = _kept(logits, weights, how)
        cumulative = np.cumsum(weights[kept])
        place = np.searchsorted(cumulative, self._uniform() * cumulative[-1], side="right")
        return int(kept[min(int(place), len(kept) - 1)])

    def _uniform(self) -> float:
        """The next number in [0, 1), with 53 random bits."""
        raw = sha256(self._sampling.seed + self._position.to_bytes(8, "big")).digest()
        return (int.from_bytes(raw[:8], "big") >> 11) / 2**53


def _kept(
    logits: NDArray[np.float64], weights: NDArray[np.float64], how: Sampling
) -> NDArray[np.int64]:
    """The ids that may be drawn; likeliest first when a filter is on, ties to the lower id."""
    if how.top_k is None and how.top_p == 1:
        return np.arange(len(weights))
    ranked = _ranked(logits, _CANDIDATES if how.top_k is None else how.top_k)
    if how.top_p == 1:
        return ranked
    goal = how.top_p * float(weights.sum() if how.top_k is None else weights[ranked].sum())
    if how.top_k is None and weights[ranked].sum() < goal:
        ranked = _ranked(logits, len(logits))
    enough = int(np.searchsorted(np.cumsum(weights[ranked]), goal)) + 1
    return ranked[:enough]


def _ranked(logits: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    if count < len(logits):
        edge = np.partition(logits, -count)[-count]
        candidates = np.flatnonzero(logits >= edge)  # in order of id, so the sort breaks ties
    else:
        candidates = np.arange(len(logits))
    order = np.argsort(-logits[candidates], kind="stable")
    return candidates[order[:count]]


def _log_sum_exp(logits: NDArray[np.float64]) -> float:
    top = logits.max()
    return float(top + np.log(np.exp(logits - top).sum()))
