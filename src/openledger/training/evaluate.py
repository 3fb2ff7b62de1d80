"""How well a model predicts texts it never saw: loss in nats per token, and perplexity."""

import math
from collections.abc import Callable, Sequence

import msgspec
import torch

from openledger.lm.frozen import HiddenCache, SplitModel
from openledger.training.rows import Row
from openledger.training.steps.head_loss import token_losses
from openledger.training.steps.trainer import predicting_states, targets

_TOKENS_AT_ONCE = 1_024


class Measured(msgspec.Struct, frozen=True):
    """The loss over all predicted tokens of some rows."""

    nats: float  # summed
    tokens: int

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """Among how many equally likely tokens the model hesitates, on average."""
        return math.exp(self.loss)


@torch.no_grad()
def measure(
    split: SplitModel,
    cache: HiddenCache,
    rows: Sequence[Row],
    progress: Callable[[int, int], None] | None = None,
) -> Measured:
    """Measure the model as it stands: with the adapter that is attached, or without any.

    `rows` are the first of the cache's rows, or all; `progress` is told (rows done, rows in all).
    """
    head = split.model.lm_head.weight
    nats, tokens, start = 0.0, 0, 0
    while start < len(rows):
        count = _that_fit(rows, start)
        batch = rows[start : start + count]
        states = predicting_states(split, batch, cache.padded(range(start, start + count)))
        losses = token_losses(states, head, targets(batch))
        nats, tokens, start = nats + float(losses.sum()), tokens + len(losses), start + count
        if progress is not None:
            progress(start, len(rows))
    return Measured(nats, tokens)


def first_rows(rows: Sequence[Row], tokens: int) -> Sequence[Row]:
    """The first rows that hold at least this many tokens together, or all."""
    seen = 0
    for count, row in enumerate(rows, start=1):
        seen += row.predicted
        if seen >= tokens:
            return rows[:count]
    return rows


def _that_fit(rows: Sequence[Row], start: int) -> int:
    longest = count = 0
    for row in rows[start:]:
        longest = max(longest, len(row.tokens))
        if count and longest * (count + 1) > _TOKENS_AT_ONCE:
            break
        count += 1
    return count
