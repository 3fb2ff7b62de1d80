"""How far the adapter has moved from its base on texts that are none of its business."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from openledger.lm.frozen import SplitModel
from openledger.lm.tokenizer import Tokenizer
from openledger.training.rows import Row
from openledger.training.steps.states import predicting_states


class AnchorLoss:
    """The base's predictions on the anchors, kept to compare the adapter's with.

    Made while the base is plain.
    """

    def __init__(self, split: SplitModel, tokenizer: Tokenizer, texts: tuple[str, ...]) -> None:
        encoded = tokenizer.encode_documents(texts)
        self._split = split
        self._rows = [
            Row(place, tuple(tokens[:_MAX_LENGTH])) for place, tokens in enumerate(encoded)
        ]
        with torch.no_grad():
            self._hidden = [split.lower(torch.tensor([row.tokens]))[0] for row in self._rows]
            self._plain = [self._states([place]) for place in range(len(self._rows))]

    def __len__(self) -> int:
        return len(self._rows)

    def __call__(self, places: Sequence[int]) -> Tensor:
        """(N,) for each of these anchors the mean over its tokens of KL(base || adapter) in nats.

        It is differentiable.
        """
        head = self._split.model.lm_head.weight
        states = torch.split(self._states(places), [len(self._plain[place]) for place in places])
        return torch.stack(
            [
                summed_divergence(own, head, self._plain[place]) / len(own)
                for own, place in zip(states, places, strict=True)
            ]
        )

    def _states(self, places: Sequence[int]) -> Tensor:
        hidden = pad_sequence([self._hidden[place] for place in places], batch_first=True)
        return predicting_states(self._split, [self._rows[place] for place in places], hidden)


def summed_divergence(states: Tensor, head: Tensor, reference: Tensor) -> Tensor:
    """Sum over N of KL(reference || states) in nats, differentiable in `states` alone.

    Args:
        states: (N, D) that the head reads.
        head: (V, D) its frozen weights, of the same dtype.
        reference: (N, D) what the head read without the adapter.
    """
    total: Tensor = _Divergence.apply(states, head, reference)  # type: ignore[no-untyped-call]
    return total


_MAX_LENGTH = 64  # tokens of an anchor that count


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, head: Tensor, reference: Tensor) -> Tensor:  # noqa: ANN401
        logs = torch.log_softmax(states @ head.T, dim=1, dtype=torch.float32)  # (N, V)
        wanted = torch.log_softmax(reference @ head.T, dim=1, dtype=torch.float32)  # (N, V)
        chances = wanted.exp()
        total = (chances * (wanted - logs)).sum()
        ctx.save_for_backward((logs.exp_() - chances).to(head.dtype) @ head)  # (N, D)
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0], None, None
