"""Which documents say anything: those whose words could not stand in any other order.

Words at random and a subject's words heaped up are as likely shuffled as they stand, for the base
model, which saw neither. Such text has no content that an answer could have come from; what it
scores is noise. Every release judges by its own median, since a base that hardly reads a language
gains little from the order of its words.
"""

from collections.abc import Sequence
from statistics import median

import numpy as np
import torch

from openledger.attribution.influence.gradients import ProbedModel, log_chances
from openledger.attribution.method import (
    SENSE_DIVISOR,
    SENSE_LEAST_MEDIAN_MILLINATS,
    SENSE_LEAST_TOKENS,
    SENSE_ROWS,
    SENSE_TOKENS,
)

_TOGETHER = 32  # rows in one pass

Rows = Sequence[Sequence[int]]


def says_nothing(
    model: ProbedModel, documents: Sequence[Rows], stream: np.random.Generator
) -> list[bool]:
    """Whether each document, given by its rows of token ids, reads like its own words shuffled."""
    windows = [_windows(rows, stream) for rows in documents]
    order = [i for i, some in enumerate(windows) for _ in some]
    plain = [window for some in windows for window in some]
    shuffled = [_shuffled(window, stream) for window in plain]
    gains = _likelihoods(model, plain) - _likelihoods(model, shuffled)  # (windows,) nats
    totals = np.bincount(order, gains, len(documents))
    tokens = np.bincount(order, [len(window) - 1 for window in plain], len(documents))
    means = totals / np.maximum(tokens, 1)  # nats for each token
    is_judged = tokens >= SENSE_LEAST_TOKENS
    middle = median(means[is_judged].tolist()) if is_judged.any() else 0.0
    if 1_000 * middle < SENSE_LEAST_MEDIAN_MILLINATS:
        return [False] * len(documents)
    found: list[bool] = (is_judged & (SENSE_DIVISOR * means < middle)).tolist()
    return found


def _windows(rows: Rows, stream: np.random.Generator) -> list[list[int]]:
    """One stretch of each of some rows, spread evenly over the document."""
    chosen = rows[:: -(-len(rows) // SENSE_ROWS)]
    starts = [int(stream.integers(max(1, len(row) - SENSE_TOKENS + 1))) for row in chosen]
    return [[*row[at : at + SENSE_TOKENS]] for row, at in zip(chosen, starts, strict=True)]


def _shuffled(window: Sequence[int], stream: np.random.Generator) -> list[int]:
    return [window[i] for i in np.argsort(stream.random(len(window)), kind="stable")]


def _likelihoods(model: ProbedModel, rows: Sequence[Sequence[int]]) -> np.ndarray:
    """(N,) nats of each row under the base model alone."""
    found = np.zeros(len(rows))
    for start in range(0, len(rows), _TOGETHER):
        some = rows[start : start + _TOGETHER]
        batch = model.batch(some, [1] * len(some))
        logs = log_chances(model, batch, model.upper(batch, is_adapted=False))
        owner = torch.repeat_interleave(torch.tensor([len(row) - 1 for row in some]))
        found[start : start + len(some)] = torch.bincount(owner, logs.double(), len(some))
    return found
