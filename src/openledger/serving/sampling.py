"""Draw the next token from logits, so that anyone with the seed draws the same one.

Token number n of a request uses the n-th number of a generator that belongs to the request alone:
sha256(seed || n). What else the engine serves at the time changes none of these numbers.
"""

import math
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from openledger.core.errors import EngineFaultError
from openledger.serving.request import Sampling, Token

_GREEDY_BELOW = 1e-5  # the second likeliest has no chance there, and dividing would overflow
_CANDIDATES = 1_024  # tried first for top_p; the likeliest 1,024 nearly always hold enough
_MORE = 8  # times as many are tried next
_SPAN = 128  # ids whose weights are summed before one of them is looked for


_Scores = NDArray[np.float32] | NDArray[np.float64]  # (V,) logits, or logits with penalties


class Sampler:
    """Draws the tokens of one request, in order."""

    def __init__(self, sampling: Sampling, prompt_ids: Sequence[int]) -> None:
        self._sampling = sampling
        self._is_penalised = bool(
            sampling.repetition_penalty != 1
            or sampling.presence_penalty
            or sampling.frequency_penalty
        )
        self._seen = set(prompt_ids)
        self._made: Counter[int] = Counter()
        self._position = 0

    def draw(self, logits: NDArray[np.float32]) -> Token:
        """Choose from (V,) logits.

        Raises:
            EngineFaultError: a logit is not a finite number.
        """
        top, low = float(logits.max()), float(logits.min())  # neither hides a NaN
        if not (math.isfinite(top) and math.isfinite(low)):
            raise EngineFaultError("the model produced a logit that is not a finite number")
        weights: NDArray[np.float64] | None = None  # (V,) at temperature 1, where one draws by them
        if self._sampling.temperature == 1 and not self._is_penalised:
            weights = _weigh(logits, 1)
            total = float(weights.sum())
        else:  # float32 costs a fifth, and moves a log-probability by some 1e-7
            total = float(np.exp(logits - np.float32(top)).sum(dtype=np.float64))
        chosen = self._choose(logits, weights)
        self._seen.add(chosen)
        self._made[chosen] += 1
        self._position += 1
        return Token(chosen, float(logits[chosen]) - top - math.log(total))

    def _choose(self, logits: NDArray[np.float32], weights: NDArray[np.float64] | None) -> int:
        """Choose, by the weights if there are any."""
        how = self._sampling
        scores = self._penalised(logits) if self._is_penalised else logits
        if how.temperature < _GREEDY_BELOW:
            return int(scores.argmax())
        if how.top_k is not None:
            kept = _ranked(scores, how.top_k)
            some = _weigh(scores[kept], how.temperature)
            kept = kept[: _enough(some, how.top_p * float(some.sum()))]
            return int(kept[_place(some[: len(kept)], self._uniform())])
        if weights is None:
            weights = _weigh(scores, how.temperature)
        if how.top_p == 1:
            return _place(weights, self._uniform())
        kept = _kept(scores, weights, how.top_p)
        return int(kept[_place(weights[kept], self._uniform())])

    def _penalised(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        how = self._sampling
        scores = logits.astype(np.float64)
        seen = np.fromiter(self._seen, np.int64)
        # As CTRL (arXiv 1909.05858) and transformers do: a negative logit is multiplied.
        factor = np.where(scores[seen] > 0, 1 / how.repetition_penalty, how.repetition_penalty)
        scores[seen] *= factor
        for token, count in self._made.items():
            scores[token] -= how.presence_penalty + how.frequency_penalty * count
        return scores

    def _uniform(self) -> float:
        """The next number in [0, 1), with 53 random bits."""
        raw = sha256(self._sampling.seed + self._position.to_bytes(8, "big")).digest()
        return (int.from_bytes(raw[:8], "big") >> 11) / 2**53


def _place(weights: NDArray[np.float64], uniform: float) -> int:
    """Where the running sum of the weights passes `uniform` times their sum.

    Summed span by span first: a running sum of all is the dearest part of a draw.
    """
    whole = len(weights) // _SPAN * _SPAN
    spans = np.append(weights[:whole].reshape(-1, _SPAN).sum(axis=1), weights[whole:].sum())
    before = np.cumsum(spans)
    goal = uniform * before[-1]
    span = min(int(np.searchsorted(before, goal, side="right")), len(spans) - 1)
    inside = np.cumsum(weights[span * _SPAN : (span + 1) * _SPAN])
    goal -= before[span] - spans[span]
    place = span * _SPAN + int(np.searchsorted(inside, goal, side="right"))
    return min(place, len(weights) - 1)


def _weigh(scores: _Scores, temperature: float) -> NDArray[np.float64]:
    weights: NDArray[np.float64] = np.exp((scores - np.float64(scores.max())) / temperature)
    return weights


def _kept(scores: _Scores, weights: NDArray[np.float64], top_p: float) -> NDArray[np.int64]:
    """The fewest ids that hold `top_p` of all weight, the likeliest first."""
    goal = top_p * float(weights.sum())
    count = _CANDIDATES
    ranked = _ranked(scores, count)
    while count < len(scores) and weights[ranked].sum() < goal:
        count *= _MORE
        ranked = _ranked(scores, count)
    return ranked[: _enough(weights[ranked], goal)]


def _enough(weights: NDArray[np.float64], goal: float) -> int:
    """How many of the first reach the goal; if rounding keeps all from it, all."""
    return int(np.searchsorted(np.cumsum(weights), goal)) + 1


def _ranked(scores: _Scores, count: int) -> NDArray[np.int64]:
    """The `count` likeliest ids in order; ties go to the lower id."""
    candidates = np.arange(len(scores))
    if count < len(scores):
        edge = np.partition(scores, -count)[-count]
        candidates = np.flatnonzero(scores >= edge)  # in order of id, so the sort breaks ties
    order = np.argsort(-scores[candidates], kind="stable")
    return candidates[order[:count]]
