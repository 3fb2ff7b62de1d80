"""How well a model predicts texts it never saw: loss in nats per token, and perplexity."""

import math
from collections.abc import Callable, Sequence

import msgspec
import torch

from openledger.lm.frozen import HiddenCache, SplitModel, batches_by_length
from openledger.training.rows import Row
from openledger.training.steps.head_loss import token_losses
from openledger.training.steps.states import predicting_states, targets


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
    nats, done = 0.0, 0
    for places in batches_by_length([len(row.tokens) for row in rows]):
        batch = [rows[place] for place in places]
        states = predicting_states(split, batch, cache.padded(places))
        nats += float(token_losses(states, head, targets(batch)).sum())
        done += len(batch)
        if progress is not None:
            progress(done, len(rows))
    return Measured(nats, sum(row.predicted for row in rows))


def first_rows(rows: Sequence[Row], tokens: int) -> Sequence[Row]:
    """The first rows that hold at least this many tokens together, or all."""
    seen = 0
    for count, row in enumerate(rows, start=1):
        seen += row.predicted
        if seen >= tokens:
            return rows[:count]
    return rows
