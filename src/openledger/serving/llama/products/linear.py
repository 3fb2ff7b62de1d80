"""Products as torch and oneDNN make them.

With oneDNN's packed matrices a row's product has the same bits in a batch of any size if two things
are seen to: float32 takes another way for one row alone, so that row is doubled; bfloat16 takes
another for many rows, so they are multiplied by parts. Measured with oneDNN 3.12 on AVX-512 with
AMX, for inputs of 64 to 2,048 numbers; of 8,192 numbers some 1 in 100,000 products in bfloat16
still differ in their last bit.
"""

import platform
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

# The batch that oneDNN is told to expect; others run as well. bfloat16 packed for more than one row
# is summed in one order up to about 32 rows and in another beyond; so is, for some widths, bfloat16
# packed for one row from somewhere above 128.
_PACKED_ROWS = {torch.bfloat16: 1, torch.float32: 32}
_MOST_ROWS = {torch.bfloat16: 128, torch.float32: 1 << 31}
_PACKING = ("x86_64", "AMD64")  # elsewhere other libraries stand behind oneDNN's door
_MANY_ROWS = 64  # from here on widening an int8 matrix costs less than it saves
_INT8_WIDTH = 16  # inputs that torch's int8 product reads at once, past the end of a row if need be


class Linear(Protocol):
    """Multiplies by a matrix: (T, D_in) to (T, D_out)."""

    def __call__(self, x: Tensor, /) -> Tensor: ...


class Make(Protocol):
    """Makes a `Linear` of a matrix (D_out, D_in) and its (D_out,) bias, if it has one."""

    def __call__(self, weight: Tensor, bias: Tensor | None = None) -> Linear: ...


class PackedLinear:
    """A matrix in oneDNN's own order."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """`weight` is (D_out, D_in), bfloat16 or float32."""
        self._bias = bias
        rows = _PACKED_ROWS[weight.dtype]
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)
        self._is_float32 = weight.dtype == torch.float32
        self._most_rows = _MOST_ROWS[weight.dtype]

    def __call__(self, x: Tensor) -> Tensor:
        if self._is_float32 and len(x) == 1:
            return self._multiply(x.repeat(2, 1))[:1]
        if len(x) > self._most_rows:
            return torch.cat([self._multiply(part) for part in torch.split(x, self._most_rows)])
        return self._multiply(x)

    def _multiply(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._packed, self._bias, "none", [], ""
        )
        return out


class PlainLinear:
    """A matrix as it is."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._weight = weight.contiguous()
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self._weight, self._bias)


class Int8Linear:
    """A matrix in 8 bits with a scale for each row; what comes in and out stays as it is.

    For many rows the matrix is widened first, so there the bits of a row depend on how many are
    beside it.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """`weight` is (D_out, D_in), bfloat16 or float32."""
        self._bias = bias
        self._weight, scale = in_8_bits(weight)
        self._scale = scale.to(weight.dtype)

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) >= _MANY_ROWS or x.shape[1] % _INT8_WIDTH:
            return F.linear(x, self._weight.to(x.dtype) * self._scale[:, None], self._bias)
        out = torch._weight_int8pack_mm(x, self._weight, self._scale)
        return out if self._bias is None else out + self._bias


def in_8_bits(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(D_out, D_in) whole numbers from -127 to 127, and the (D_out,) float32 scale of each row."""
    scale = (weight.float().abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
    whole = (weight.float() / scale[:, None]).round().clamp(-127, 127)
    return whole.to(torch.int8).contiguous(), scale


def can_pack(dtype: torch.dtype) -> bool:
    """Whether oneDNN packs matrices of this precision here."""
    if platform.machine() not in _PACKING or not torch._C._has_mkldnn:
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
