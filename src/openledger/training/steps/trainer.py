"""One optimiser step at a time on an adapter whose base is frozen and half cached."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from hashlib import sha256
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor

from openledger.core.errors import InvalidInputError
from openledger.lm.base import BaseModel
from openledger.lm.frozen import SplitModel
from openledger.lm.lora import Adapter, LoraPair, attached, random_adapter
from openledger.training.anchors import ANCHORS
from openledger.training.recipe import Recipe
from openledger.training.rows import Row
from openledger.training.steps.anchor_loss import AnchorLoss
from openledger.training.steps.head_loss import summed_loss
from openledger.training.steps.states import predicting_states, targets

Item = TypeVar("Item")

_ANCHORS_A_STEP = 1
_WINDOW = 8  # batches among which rows are sorted by length
LARGEST_GRADIENT = 1.0  # norm over all factors; rare tunes would otherwise throw the run


class Trainer:
    """An adapter, its optimiser and the base below it.

    While `attached`, the base computes with this adapter; nobody else may use that base meanwhile.
    """

    def __init__(self, base: BaseModel, recipe: Recipe, seed: bytes, steps: int) -> None:
        self.base = base
        self.recipe = recipe
        self.steps = steps
        self.adapter = fresh_adapter(base, recipe, seed)
        self.split = SplitModel(base.model, self.adapter.shape.layers[0])
        self._anchors = AnchorLoss(self.split, base.tokenizer, ANCHORS)
        self._anchor_order = anchor_order(len(self._anchors), steps, seed)
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=recipe.learning_rate, weight_decay=0.0
        )

    @property
    def parameters(self) -> list[Tensor]:
        """A and B of every site, in the order of the sites."""
        return [factor for pair in self.adapter.pairs.values() for factor in (pair.a, pair.b)]

    def attached(self) -> AbstractContextManager[None]:
        """Put the adapter on the base; the plain base comes back afterwards."""
        return attached(self.base.model, self.adapter)

    def backward(self, rows: Sequence[Row], hidden: Tensor) -> float:
        """Gradients of the mean loss over the rows' tokens; returns that loss in nats.

        Args:
            rows: the batch.
            hidden: (B, T, D) of these rows from the cache.

        Raises:
            InvalidInputError: the loss is no number any more.
        """
        self.optimiser.zero_grad()
        states = predicting_states(self.split, rows, hidden)  # (N, D)
        total = summed_loss(states, self.base.model.lm_head.weight, targets(rows))
        loss = total / len(states)
        if not bool(torch.isfinite(loss)):
            raise InvalidInputError("the training diverged: lower the recipe's learning rate")
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return float(loss.detach())

    def hold(self, step: int) -> None:
        """Add the gradients that hold the adapter to its base on the anchors of this step."""
        if self.recipe.anchor_weight:
            loss = self._anchors(self._anchor_order[step]).mean() * self.recipe.anchor_weight
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def update(self, step: int) -> None:
        """Move the adapter by the gradients of step `step`, counted from 0."""
        torch.nn.utils.clip_grad_norm_(self.parameters, LARGEST_GRADIENT)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.recipe, step, self.steps)
        self.optimiser.step()

    def snapshot(self) -> Adapter:
        """A copy of the adapter as it is now."""
        pairs = {s: LoraPair(_copy(p.a), _copy(p.b)) for s, p in self.adapter.pairs.items()}
        return Adapter(self.adapter.shape, self.adapter.base, pairs)

    @torch.no_grad()
    def become(self, other: Adapter) -> None:
        """Take over another adapter's values; the optimiser's moments stay."""
        for site, pair in self.adapter.pairs.items():
            pair.a.copy_(other.pairs[site].a)
            pair.b.copy_(other.pairs[site].b)


def fresh_adapter(base: BaseModel, recipe: Recipe, seed: bytes) -> Adapter:
    """As training starts from; its factors take gradients."""
    shape = recipe.shape(base.layers)
    fresh = random_adapter(base.model, base.digest, shape, generator(seed, "adapter"))
    return Adapter(shape, base.digest, {site: _live(pair) for site, pair in fresh.pairs.items()})


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """That of step `step`, counted from 0: it rises while warming up and falls to nothing."""
    warm = min(1.0, (step + 1) / max(1, recipe.warmup_steps))
    return recipe.learning_rate * warm * (1 - step / steps)


def generator(seed: bytes, purpose: str) -> torch.Generator:
    """Random numbers that depend on the run's seed and on what they are for, on nothing else."""
    mixed = sha256(seed + purpose.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(mixed[:8], "big") >> 1)


def batches(lengths: Sequence[int], recipe: Recipe, seed: bytes) -> list[list[int]]:
    """Which rows each step sees; over the run every row is seen `epochs` times.

    Rows are drawn at random, then sorted by length within a window of several batches, so that a
    batch holds like lengths and little padding; the batches of a window come in random order.

    Args:
        lengths: of all rows, in tokens.
        recipe: epochs and rows in a batch.
        seed: of the run.
    """
    drawn: list[list[int]] = []
    for epoch in range(recipe.epochs):
        rows = _drawn(range(len(lengths)), generator(seed, f"epoch {epoch}"))
        together = _cut(rows, -(-len(rows) // recipe.batch_size))
        for number, window in enumerate(_cut(together, -(-len(together) // _WINDOW))):
            near = sorted((row for batch in window for row in batch), key=lambda row: lengths[row])
            drawn += _drawn(_cut(near, len(window)), generator(seed, f"window {epoch} {number}"))
    return drawn


def _drawn(items: Sequence[Item], source: torch.Generator) -> list[Item]:
    return [items[place] for place in torch.randperm(len(items), generator=source).tolist()]


def _cut(items: Sequence[Item], count: int) -> list[list[Item]]:
    """So many pieces in order, of sizes that differ by one at most."""
    ends = [len(items) * (i + 1) // count for i in range(count)]
    return [list(items[start:end]) for start, end in pairwise([0, *ends])]


def anchor_order(count: int, steps: int, seed: bytes) -> list[list[int]]:
    """Which anchors each step looks at: all in turn, in an order drawn from the seed."""
    drawn = torch.randperm(count, generator=generator(seed, "anchors")).tolist()
    return [
        [drawn[(step * _ANCHORS_A_STEP + i) % count] for i in range(_ANCHORS_A_STEP)]
        for step in range(steps)
    ]


def _live(pair: LoraPair) -> LoraPair:
    return LoraPair(pair.a.requires_grad_(), pair.b.requires_grad_())


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()
