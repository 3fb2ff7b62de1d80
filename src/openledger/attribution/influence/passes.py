"""The passes of a model over the rows it was trained on: what they taught it, as features.

Each row passes forward and back once at each checkpoint, for its own gradient; some of them back
once more, for labels drawn from the model, which measure the curvature. Behind the rows stand
placebo rows, which say nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256

import numpy as np
import torch
from torch import Tensor

from openledger.attribution.influence.curvature import Gradients, Votes, Whitener, fit
from openledger.attribution.influence.gradients import (
    Batch,
    Checkpoints,
    ProbedModel,
    label_gradients,
)
from openledger.attribution.method import (
    CHECKPOINTS,
    CURVATURE_EXAMPLES,
    CURVATURE_TOKENS,
    LENGTH_PERCENT,
    LONGEST_SEQUENCE,
    PLACEBO_ROWS,
    PLACEBO_TOKENS,
)
from openledger.core.errors import InvalidInputError
from openledger.core.types import Digest
from openledger.lm.frozen import HiddenCache

_BATCH_TOKENS = 2_048  # padding included
_TINY = torch.finfo(torch.float32).tiny

Progress = Callable[[int, int], None]


class Passes:
    """The passes over the training rows and the placebo rows behind them."""

    def __init__(
        self,
        models: Checkpoints,
        seed: Digest,
        rows: Sequence[Sequence[int]],
        hidden: HiddenCache,
        progress: Progress | None = None,
    ) -> None:
        self._models = models
        self._stream = np.random.Generator(np.random.Philox(key=key_of(seed, "curvature")))
        self._seed = seed
        trained = [list(row[:LONGEST_SEQUENCE]) for row in rows]
        placebo = _placebo(trained, seed)
        self._rows = [*trained, *placebo]
        self._hidden = hidden
        self._placebo_hidden = models.final.batch(placebo, [1] * len(placebo)).hidden
        self._batches = _batches(self._rows)
        self._kept: list[dict[int, Gradients]] = [{} for _ in range(CHECKPOINTS)]  # by batch
        self._progress = progress
        self._done, self._total = 0, CHECKPOINTS * len(self._rows)

    def fit_curvature(self, width: int) -> Whitener:
        """EK-FAC from an even selection of the batches, at both checkpoints."""
        tokens = sum(map(len, self._rows))
        stride = max(1, -(-tokens // CURVATURE_TOKENS), -(-len(self._rows) // CURVATURE_EXAMPLES))
        chosen = range(0, len(self._batches), stride)
        self._total += CHECKPOINTS * sum(len(self._batches[index]) for index in chosen)
        sampled = []
        for kept, model in zip(self._kept, self._models.both, strict=True):
            for index in chosen:
                kept[index], drawn = self._measure_both(self._batches[index], model)
                sampled.append(drawn)
                self._tell(len(self._batches[index]))
        votes = [self._votes(index, one) for kept in self._kept for index, one in kept.items()]
        search = torch.Generator().manual_seed(key_of(self._seed, "eigenvectors") % 2**63)
        return fit(self._models.final.sites, sampled, votes, width, search)

    def sums(self, whitener: Whitener, owners: Sequence[int]) -> list[Tensor]:
        """For each checkpoint (owners + placebo, F): the summed features of each owner's rows.

        Args:
            whitener: makes the features.
            owners: the place of each training row's owner; each placebo row is its own.
        """
        place = torch.tensor([*owners, *range(max(owners) + 1, max(owners) + 1 + PLACEBO_ROWS)])
        sums = [torch.zeros(int(place[-1]) + 1, sum(whitener.widths)) for _ in range(CHECKPOINTS)]
        for total, kept, model in zip(sums, self._kept, self._models.both, strict=True):
            longest = self._longest(whitener, kept)
            for index, members in enumerate(self._batches):
                gradients = kept.pop(index, None) or self._measure(members, model)
                found = torch.cat(whitener.whiten(gradients), dim=1)  # (N, F)
                most = (longest * self._tokens(members)).sqrt()
                lengths = torch.maximum(found.norm(dim=1), most).clamp(min=_TINY)
                found *= (most / lengths)[:, None]
                total.index_add_(0, place[torch.tensor(members)], found)
                self._tell(len(members))
        return sums

    def _longest(self, whitener: Whitener, kept: Mapping[int, Gradients]) -> float:
        """The squared length a token that no row exceeds, so that strange text earns no more.

        Half of the tokens stand in shorter rows. Of training rows alone: the placebo is strange on
        purpose.
        """
        lengths, tokens = [], []
        for index, gradients in kept.items():
            members = torch.tensor(self._batches[index])
            squares = torch.cat(whitener.whiten(gradients), dim=1).square().sum(1)
            is_trained = self._is_trained(members)
            tokens.append(self._tokens(members)[is_trained])
            lengths.append(squares[is_trained] / tokens[-1])
        order = torch.argsort(torch.cat(lengths), stable=True)
        below = torch.cat(tokens)[order].cumsum(0)
        middle = torch.searchsorted(below, below[-1] * (LENGTH_PERCENT / 100))
        return float(torch.cat(lengths)[order[middle]])

    def _votes(self, index: int, gradients: Gradients) -> Votes:
        """Every training row of a batch counts as much as it has tokens, the placebo nothing."""
        members = torch.tensor(self._batches[index])
        return Votes(gradients, torch.where(self._is_trained(members), self._tokens(members), 0.0))

    def _is_trained(self, members: Tensor) -> Tensor:
        """(N,) whether they are training rows, not placebo."""
        return members < len(self._hidden)

    def _tokens(self, members: Sequence[int] | Tensor) -> Tensor:
        """(N,) how many tokens of each of these rows are foretold."""
        return torch.tensor([len(self._rows[int(i)]) - 1.0 for i in members])

    def _tell(self, rows: int) -> None:
        self._done += rows
        if self._progress is not None:
            self._progress(self._done, self._total)

    def _batch(self, members: Sequence[int]) -> Batch:
        rows = [self._rows[i] for i in members]
        trained = len(self._hidden)
        hidden = [
            (self._hidden[i] if i < trained else self._placebo_hidden[i - trained])[: len(row)]
            for i, row in zip(members, rows, strict=True)
        ]
        return self._models.final.batch(rows, [1] * len(rows), hidden)

    def _measure(self, members: Sequence[int], model: ProbedModel) -> Gradients:
        batch = self._batch(members)
        states = model.upper(batch, has_graph=True)
        return _finite(members, model.gradients(states, label_gradients(model, batch, states).true))

    def _measure_both(
        self, members: Sequence[int], model: ProbedModel
    ) -> tuple[Gradients, Gradients]:
        batch = self._batch(members)
        states = model.upper(batch, has_graph=True)
        uniforms = self._stream.random(sum(batch.lengths) - len(members))
        labels = label_gradients(model, batch, states, uniforms)
        assert labels.sampled is not None
        true = _finite(members, model.gradients(states, labels.true))
        return true, model.gradients(states, labels.sampled)


def _placebo(rows: Sequence[Sequence[int]], seed: Digest) -> list[list[int]]:
    """The tokens of some training rows in random order: the same words, nothing said."""
    stream = np.random.Generator(np.random.Philox(key=key_of(seed, "placebo")))
    scrambled = []
    for turn in range(PLACEBO_ROWS):
        source = rows[turn * len(rows) // PLACEBO_ROWS]
        order = np.argsort(stream.random(len(source)), kind="stable")[:PLACEBO_TOKENS]
        scrambled.append([source[i] for i in order])
    return scrambled


def _batches(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Rows of like length together, so that little is padding; longest first."""
    batches: list[list[int]] = []
    for index in sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i)):
        if batches and len(rows[batches[-1][0]]) * (len(batches[-1]) + 1) <= _BATCH_TOKENS:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def _finite(members: Sequence[int], gradients: Gradients) -> Gradients:
    for gradient in gradients.values():
        for index, a, b in zip(members, gradient.a, gradient.b, strict=True):
            if not bool(torch.isfinite(a).all() and torch.isfinite(b).all()):
                raise InvalidInputError(
                    f"training row {index} gives a gradient that is no finite number: "
                    "the adapter is broken, train it again"
                )
    return gradients


def key_of(seed: Digest, purpose: str) -> int:
    """What makes the draws for one purpose, of the seed of the run."""
    return int.from_bytes(sha256(f"openledger {purpose} 1 {seed}".encode()).digest()[:16], "big")
