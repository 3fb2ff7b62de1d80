"""A base model's weights as serving multiplies by them: fused, and packed once."""

from collections.abc import Sequence
from functools import partial

import msgspec
import torch
from torch import Tensor, nn
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

from openledger.lm.families.architecture import CausalLayer, CausalModel
from openledger.serving.llama.products.linear import (
    Int8Linear,
    Linear,
    Make,
    PackedLinear,
    PlainLinear,
    can_pack,
)
from openledger.serving.llama.products.panels import Int8PanelLinear, PanelLinear
from openledger.serving.native.library import InstructionSet, Native
from openledger.serving.native.memory import LargePages


class HeadNorm(msgspec.Struct, frozen=True):
    """How the heads of the queries, or those of the keys, are normalised."""

    first_column: int  # of the fused output
    end_column: int
    weight: Tensor  # (head_dim,) float32


class Layer(msgspec.Struct, frozen=True):
    """One decoder layer."""

    matrices: tuple[Linear, ...]  # by `Matrix`
    norm_in: Tensor  # (D,) float32, before attention
    norm_mid: Tensor  # (D,) float32, before the feed-forward layer
    norm_heads: tuple[HeadNorm, ...] = ()


class Weights(msgspec.Struct, frozen=True):
    """All of a model."""

    embedding: Tensor  # (V, D)
    layers: tuple[Layer, ...]
    norm: Tensor  # (D,) float32
    head: Linear


def weights_of(
    model: CausalModel, *, is_int8: bool = False, native: Native | None = None
) -> Weights:
    """Fuse and pack the weights of a model, in its own precision unless in 8 bits."""
    make = _make(model.dtype, native, is_int8=is_int8)
    inner = model.model
    return Weights(
        embedding=inner.embed_tokens.weight.detach(),
        layers=tuple(_layer(layer, make) for layer in inner.layers),
        norm=inner.norm.weight.detach().float(),
        head=make(model.lm_head.weight.detach()),
    )


def _make(dtype: torch.dtype, native: Native | None, *, is_int8: bool) -> Make:
    """The fastest there is: the kernel, unless it is plain C or has one thread only."""
    if (
        native is not None
        and native.path > InstructionSet.PLAIN
        and native.library.has_threads
        and (is_int8 or dtype == torch.float32)
    ):
        panels = Int8PanelLinear if is_int8 else PanelLinear
        return partial(panels, native=native, pages=LargePages())
    if is_int8:
        return Int8Linear
    return PackedLinear if can_pack(dtype) else PlainLinear


def _layer(layer: CausalLayer, make: Make) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    fused = (
        (attention.q_proj, attention.k_proj, attention.v_proj),
        (attention.o_proj,),
        (mlp.gate_proj, mlp.up_proj),
        (mlp.down_proj,),
    )
    return Layer(
        matrices=tuple(make(*_fused(linears)) for linears in fused),
        norm_in=layer.input_layernorm.weight.detach().float(),
        norm_mid=layer.post_attention_layernorm.weight.detach().float(),
        norm_heads=_norm_heads(layer) if isinstance(layer, Qwen3DecoderLayer) else (),
    )


def _norm_heads(layer: Qwen3DecoderLayer) -> tuple[HeadNorm, ...]:
    attention = layer.self_attn
    queries, keys = attention.q_proj.out_features, attention.k_proj.out_features
    return (
        HeadNorm(0, queries, attention.q_norm.weight.detach().float()),
        HeadNorm(queries, queries + keys, attention.k_norm.weight.detach().float()),
    )


def _fused(linears: Sequence[nn.Linear]) -> tuple[Tensor, Tensor | None]:
    """Matrices one above the other, and their biases, if any has one."""
    weight = torch.cat([linear.weight.detach() for linear in linears])
    if all(linear.bias is None for linear in linears):
        return weight, None
    bias = weight.new_zeros(len(weight))
    parts = torch.split(bias, [linear.out_features for linear in linears])
    for own, linear in zip(parts, linears, strict=True):
        if linear.bias is not None:
            own.copy_(linear.bias.detach())
    return weight, bias
