"""The arithmetic between a layer's matrix products, in C or in torch."""

from typing import Protocol

from torch import Tensor

from openledger.serving.llama.shape import Matrix
from openledger.serving.llama.step import Step


class Kernels(Protocol):
    """Works on one step at a time: T rows, in the model's precision unless said."""

    def begin(self, step: Step) -> None:
        """What follows is for this step."""
        ...

    def norm(self, residual: Tensor, added: Tensor | None, weight: Tensor) -> Tensor:
        """Add to the (T, D) float32 residual in place, and return it normalised by its RMS."""
        ...

    def gate(self, gate_up: Tensor) -> Tensor:
        """(T, 2 * inner) to (T, inner): silu of the first half times the second."""
        ...

    def attend(self, layer: int, qkv: Tensor) -> Tensor:
        """Rotate, put keys and values into the cache, attend to all of each row's past.

        Args:
            layer: whose cache.
            qkv: (T, (H + 2 * kv_heads) * head_dim); it may be overwritten.

        Returns:
            (T, H * head_dim).
        """
        ...

    def adapt(self, layer: int, matrix: Matrix, x: Tensor, y: Tensor) -> None:
        """Add to `y` (T, D_out) what each row's adapters make of `x` (T, D_in)."""
        ...
