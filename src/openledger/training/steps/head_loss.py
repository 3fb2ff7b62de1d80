"""The loss of the head, forward and backward in one pass over the vocabulary.

The head is frozen, so its gradient is only that of its input, and that is known as soon as the
probabilities are: computing both at once reads the (N, V) logits half as often, in pieces that
fit the cache, and never keeps them.
"""

from typing import Any

import torch
from torch import Tensor

_PIECE = 128  # rows of logits at a time; larger ones fall out of the cache


def summed_loss(states: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Sum of the losses in nats, differentiable in `states` alone.

    Args:
        states: (N, D) that the head reads.
        head: (V, D) its frozen weights, of the same dtype.
        targets: (N,) token ids.
    """
    total: Tensor = _HeadLoss.apply(states, head, targets)  # type: ignore[no-untyped-call]  # torch
    return total


def token_losses(states: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """(N,) losses in nats, float32, without a gradient; arguments as above."""
    pieces = zip(torch.split(states, _PIECE), torch.split(targets, _PIECE), strict=True)
    with torch.no_grad():
        return torch.cat(
            [-_log_probabilities(s, head).gather(1, t[:, None])[:, 0] for s, t in pieces]
        )


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, head: Tensor, targets: Tensor) -> Tensor:  # noqa: ANN401
        gradient = torch.empty_like(states)
        total = torch.zeros((), dtype=torch.float32)
        for start in range(0, len(states), _PIECE):
            piece = slice(start, start + _PIECE)
            logs = _log_probabilities(states[piece], head)  # (n, V)
            wanted = targets[piece, None]
            total -= logs.gather(1, wanted).sum()
            error = logs.exp_().scatter_add_(1, wanted, torch.full(wanted.shape, -1.0))
            gradient[piece] = error.to(head.dtype) @ head  # (n, D)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0], None, None


def _log_probabilities(states: Tensor, head: Tensor) -> Tensor:
    return torch.log_softmax(states @ head.T, dim=1, dtype=torch.float32)
