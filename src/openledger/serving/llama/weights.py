"""A base model's weights as serving multiplies by them: fused, and packed once.

Packed matrices are those of oneDNN. With them a row's product has the same bits in a batch of any
size if two things are seen to: float32 takes another way for one row alone, so that row is doubled;
bfloat16 takes another for many rows, so they are multiplied by parts. Measured with oneDNN 3.12 on
AVX-512 with AMX, for inputs of 64 to 2,048 numbers; of 8,192 numbers some 1 in 100,000 products in
bfloat16 still differ in their last bit.
"""

import platform
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import msgspec
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor
from transformers.models.llama import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from openledger.serving.native.library import Native

# The batch that oneDNN is told to expect; others run as well. bfloat16 packed for more than one row
# is summed in one order up to about 32 rows and in another beyond; so is, for some widths, bfloat16
# packed for one row from somewhere above 128.
_PACKED_ROWS = {torch.bfloat16: 1, torch.float32: 32}
_MOST_ROWS = {torch.bfloat16: 128, torch.float32: 1 << 31}
_MANY_ROWS = 64  # from here on widening an int8 matrix costs less than it saves
_INT8_WIDTH = 16  # inputs that torch's int8 product reads at once, past the end of a row if need be
_PACKING = ("x86_64", "AMD64")  # elsewhere other libraries stand behind oneDNN's door


class Linear(Protocol):
    """Multiplies by a matrix: (T, D_in) to (T, D_out)."""

    def __call__(self, x: Tensor, /) -> Tensor: ...


Make = Callable[[Tensor], Linear]  # from a matrix (D_out, D_in)


class PackedLinear:
    """A matrix in oneDNN's own order."""

    def __init__(self, weight: Tensor) -> None:
        """`weight` is (D_out, D_in), bfloat16 or float32."""
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
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, None, "none", [], "")
        return out


class PlainLinear:
    """A matrix as it is."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight.contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self._weight)


class Int8Linear:
    """A matrix in 8 bits with a scale for each row; what comes in and out stays as it is.

    It moves half the bytes of bfloat16, which counts for few rows. For many the matrix is widened
    first, so there the bits of a row depend on how many are beside it.
    """

    def __init__(self, weight: Tensor, native: Native | None = None) -> None:
        """Without a library torch multiplies."""
        scale = (weight.float().abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
        self._scale = scale.to(weight.dtype)
        self._scale_float = self._scale.float()
        whole = (weight.float() / self._scale_float[:, None]).round().clamp(-127, 127)
        self._weight = whole.to(torch.int8).contiguous()
        self._native = native

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) < _MANY_ROWS:
            if self._native is not None:
                return self._multiply(self._native, x)
            if x.shape[1] % _INT8_WIDTH == 0:
                return torch._weight_int8pack_mm(x, self._weight, self._scale)
        return F.linear(x, self._weight.to(x.dtype) * self._scale[:, None])

    def _multiply(self, native: Native, x: Tensor) -> Tensor:
        out, width = self._weight.shape
        floats, y = x.float().contiguous(), x.new_empty(len(x), out)
        native.library.int8(
            *(native.path, len(x), width, out, torch.get_num_threads()),
            *(floats.data_ptr(), self._weight.data_ptr(), self._scale_float.data_ptr()),
            *(y.data_ptr(), int(x.dtype == torch.bfloat16)),
        )
        return y


class Layer(msgspec.Struct, frozen=True):
    """One decoder layer."""

    matrices: tuple[Linear, ...]  # by `Matrix`
    norm_in: Tensor  # (D,) float32, before attention
    norm_mid: Tensor  # (D,) float32, before the feed-forward layer


class Weights(msgspec.Struct, frozen=True):
    """All of a model."""

    embedding: Tensor  # (V, D)
    layers: tuple[Layer, ...]
    norm: Tensor  # (D,) float32
    head: Linear


def weights_of(
    model: LlamaForCausalLM, *, is_int8: bool = False, native: Native | None = None
) -> Weights:
    """Fuse and pack the weights of a model, in its own precision; `native` multiplies int8."""
    make: Make = PackedLinear if _can_pack(model.dtype) else PlainLinear
    if is_int8:
        make = partial(Int8Linear, native=native)
    inner = model.model
    return Weights(
        embedding=inner.embed_tokens.weight.detach(),
        layers=tuple(_layer(layer, make) for layer in inner.layers),
        norm=inner.norm.weight.detach().float(),
        head=make(model.lm_head.weight.detach()),
    )


def _can_pack(dtype: torch.dtype) -> bool:
    if platform.machine() not in _PACKING or not torch._C._has_mkldnn:
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _layer(layer: LlamaDecoderLayer, make: Make) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    fused = (
        (attention.q_proj, attention.k_proj, attention.v_proj),
        (attention.o_proj,),
        (mlp.gate_proj, mlp.up_proj),
        (mlp.down_proj,),
    )
    return Layer(
        matrices=tuple(make(_fused(linears)) for linears in fused),
        norm_in=layer.input_layernorm.weight.detach().float(),
        norm_mid=layer.post_attention_layernorm.weight.detach().float(),
    )


def _fused(linears: Sequence[torch.nn.Linear]) -> Tensor:
    return torch.cat([linear.weight.detach() for linear in linears])
