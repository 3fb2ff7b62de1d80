"""One pass of a model over a mixed batch of prompt pieces and single tokens."""

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
        """(wanted, V) logits; every matrix product is one for all rows.

        The residual is float32 whatever the precision, so that it is not rounded in each layer.
        """
        kernels, weights = self._kernels, self._weights
        kernels.begin(step)
        residual = weights.embedding[step.token_ids].float()  # (T, D)
        x = kernels.norm(residual, None, weights.layers[0].norm_in)
        following = [layer.norm_in for layer in weights.layers[1:]] + [weights.norm]
        for i, (layer, norm_out) in enumerate(zip(weights.layers, following, strict=True)):
            qkv = self._product(i, Matrix.QKV, x)
            if layer.norm_heads is not None:
                self._normalise(qkv, layer.norm_heads)
            attended = kernels.attend(i, qkv)
            x = kernels.norm(residual, self._product(i, Matrix.OUT, attended), layer.norm_mid)
            gated = kernels.gate(self._product(i, Matrix.GATE_UP, x))
            x = kernels.norm(residual, self._product(i, Matrix.DOWN, gated), norm_out)
        if not step.wanted:
            return x.new_empty(0, len(weights.embedding))
        return weights.head(x if len(step.wanted) == len(x) else x[[*step.wanted]])

    def _normalise(self, qkv: Tensor, scale: Tensor) -> None:
        """Normalise queries and keys, head by head, in place (Qwen3)."""
        heads = qkv[:, : scale.numel()]  # (T, (H + kv_heads) * head_dim)
        rows = heads.float().reshape(-1, scale.shape[1])
        normed = self._kernels.norm(rows, None, torch.ones(scale.shape[1]))
        heads.copy_((normed.view(len(qkv), *scale.shape) * scale).flatten(1))

    def _product(self, layer: int, matrix: Matrix, x: Tensor) -> Tensor:
        y = self._weights.layers[layer].matrices[matrix](x)
        self._kernels.adapt(layer, matrix, x, y)
        return y
