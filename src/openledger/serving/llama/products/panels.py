"""Products as the kernel makes them, of matrices that lie in its panels.

A row's product has the same bits in a batch of any size, as each sum runs over the inputs in one
order.
"""

import torch
from torch import Tensor

from openledger.core.errors import InvalidInputError
from openledger.serving.llama.products.linear import in_8_bits
from openledger.serving.native.library import PANEL, Native
from openledger.serving.native.memory import LargePages

_MANY_ROWS = 128  # of bfloat16: from here on its own product, of the widened matrix, is faster


class PanelLinear:
    """A matrix of float32."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None = None, *, native: Native, pages: LargePages
    ) -> None:
        """`weight` is (D_out, D_in) float32."""
        self._bias = bias
        self._out = len(weight)
        self._panels = _panels(weight, pages)
        self._native = native

    def __call__(self, x: Tensor) -> Tensor:
        y = _product(self._native, x, self._panels, None, self._out)
        return y if self._bias is None else y.add_(self._bias)


class Int8PanelLinear:
    """A matrix in 8 bits with a scale for each row; what comes in and out stays as it is.

    For many rows of bfloat16 the matrix is widened, so there the bits of a row depend on how many
    are beside it, and on the threads.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None = None, *, native: Native, pages: LargePages
    ) -> None:
        """`weight` is (D_out, D_in), bfloat16 or float32."""
        self._bias = bias
        whole, self._scale = in_8_bits(weight)
        self._panels = _panels(whole, pages)
        self._native = native

    def __call__(self, x: Tensor) -> Tensor:
        if x.dtype == torch.bfloat16 and len(x) >= _MANY_ROWS:
            y = self._widened(x)
        else:
            y = _product(self._native, x, self._panels, self._scale, len(self._scale))
        return y if self._bias is None else y.add_(self._bias)

    def _widened(self, x: Tensor) -> Tensor:
        matrix = self._panels.transpose(0, 1).reshape(x.shape[1], -1)  # (D_in, D_out filled up)
        return (x @ matrix.to(x.dtype))[:, : len(self._scale)] * self._scale.to(x.dtype)


def _panels(matrix: Tensor, pages: LargePages) -> Tensor:
    """(panels, D_in, PANEL) of a matrix (D_out, D_in), whose last panel is filled up with zeros."""
    out, width = matrix.shape
    panels = pages.take((-(-out // PANEL), width, PANEL), matrix.dtype)
    whole = out // PANEL
    panels[:whole] = matrix[: whole * PANEL].view(whole, PANEL, width).transpose(1, 2)
    panels[whole:, :, : out % PANEL] = matrix[whole * PANEL :].T
    return panels


def _product(native: Native, x: Tensor, panels: Tensor, scale: Tensor | None, out: int) -> Tensor:
    """(T, out) in the precision of x; `scale` is that of 8-bit numbers.

    Raises:
        InvalidInputError: the rows are not as wide as the matrix.
    """
    if x.shape[1:] != panels.shape[1:2]:  # the kernel would read what lies beside it
        raise InvalidInputError(f"rows {tuple(x.shape)} do not fit {panels.shape[1]} inputs")
    floats, y = x.float().contiguous(), x.new_empty(len(x), out)
    native.library.product(
        *(native.path, len(x), x.shape[1], out, torch.get_num_threads()),
        *(floats.data_ptr(), panels.data_ptr(), None if scale is None else scale.data_ptr()),
        *(y.data_ptr(), int(x.dtype == torch.bfloat16)),
    )
    return y
