"""Rows of different lengths as one list of places that predict a token."""

from collections.abc import Sequence

import torch
from torch import Tensor

from openledger.lm.frozen import SplitModel
from openledger.training.rows import Row


def predicting_states(split: SplitModel, rows: Sequence[Row], hidden: Tensor) -> Tensor:
    """(N, D) states before the head at every place that predicts a token, row by row.

    `hidden` is the (B, T, D) input of the upper layers, padded on the right.
    """
    states = split.upper(hidden)  # (B, T, D)
    return torch.cat([states[i, : row.predicted] for i, row in enumerate(rows)])


def targets(rows: Sequence[Row]) -> Tensor:
    """(N,) the tokens to predict, row by row."""
    return torch.tensor([token for row in rows for token in row.tokens[1:]])
