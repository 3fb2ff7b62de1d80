"""One pass of a Llama over a mixed batch of prompt pieces and single tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor

from openledger.serving.llama.kernels.protocol import Kernels
from openledger.serving.llama.shape import Matrix
from openledger.serving.llama.step import Step
from openledger.serving.llama.weights import Weights


class Forward:
    """The order of operations; what they are is up to `weights` and `kernels`."""

    def __init__(self, weights: Weights, kernels: Kernels) -> None:
        self._weights = weights
        self._kernels = kernels

    @torch.inference_mode()
    def run(self, step: Step) -> Tensor:
        """(T, D) final hidden states, normalised; every matrix product is one for all rows.

        The residual is float32 whatever the precision, so that it is not rounded in each layer.
        """
        kernels, weights = self._kernels, self._weights
        kernels.begin(step)
        residual = weights.embedding[step.token_ids].float()  # (T, D)
        x = kernels.norm(residual, None, weights.layers[0].norm_in)
        following = [layer.norm_in for layer in weights.layers[1:]] + [weights.norm]
        for i, (layer, norm_out) in enumerate(zip(weights.layers, following, strict=True)):
            attended = kernels.attend(i, self._product(i, Matrix.QKV, x))
            x = kernels.norm(residual, self._product(i, Matrix.OUT, attended), layer.norm_mid)
            gated = kernels.gate(self._product(i, Matrix.GATE_UP, x))
            x = kernels.norm(residual, self._product(i, Matrix.DOWN, gated), norm_out)
        return x

    @torch.inference_mode()
    def logits(self, states: Tensor, rows: Sequence[int]) -> Tensor:
        """(wanted, V) of these rows of the (T, D) states, which rise."""
        if not rows:
            return states.new_empty(0, len(self._weights.embedding))
        return self._weights.head(states if len(rows) == len(states) else states[[*rows]])

    def _product(self, layer: int, matrix: Matrix, x: Tensor) -> Tensor:
        y = self._weights.layers[layer].matrices[matrix](x)
        self._kernels.adapt(layer, matrix, x, y)
        return y
