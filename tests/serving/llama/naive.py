"""The kernels' arithmetic in float64, as plainly as it can be said, and inputs for it."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openledger.core.types import Digest
from openledger.lm.lora import Adapter, LoraPair, LoraShape, Site
from openledger.serving.batch import Weighted
from openledger.serving.llama.packed import PackedAdapter, Rooms, aligned, pack, unpack
from openledger.serving.llama.rotary import Rotary
from openledger.serving.llama.shape import LlamaShape

BASE = Digest("b" * 64)
Doubles = NDArray[np.float64]


def doubles(tensor: Tensor) -> Doubles:
    return tensor.double().numpy()


def rms_norm(rows: Doubles, weight: Doubles, epsilon: float) -> Doubles:
    mean: Doubles = (rows**2).mean(1, keepdims=True)
    out: Doubles = rows / np.sqrt(mean + epsilon) * weight
    return out


def gated(gate_up: Doubles) -> Doubles:
    gate, up = np.split(gate_up, 2, axis=1)
    out: Doubles = gate / (1 + np.exp(-gate)) * up
    return out


def attention(qkv: Doubles, shape: LlamaShape, rotary: Rotary) -> Doubles:
    """Of one sequence from its first position on."""
    heads = qkv.reshape(len(qkv), -1, shape.head_dim).copy()
    turned = heads[:, : shape.heads + shape.kv_heads]
    cosines = doubles(rotary.cosines[: len(qkv)])[:, None]
    sines = doubles(rotary.sines[: len(qkv)])[:, None]
    real, imaginary = np.split(turned.copy(), 2, axis=2)
    turned[:] = np.concatenate(
        [real * cosines - imaginary * sines, imaginary * cosines + real * sines], axis=2
    )
    out = np.zeros((len(qkv), shape.heads, shape.head_dim))
    for head in range(shape.heads):
        kv = shape.heads + head // (shape.heads // shape.kv_heads)
        scores = heads[:, head] @ heads[:, kv].T / np.sqrt(shape.head_dim)
        scores[np.triu_indices(len(qkv), 1)] = -np.inf
        weights = np.exp(scores - scores.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        out[:, head] = weights @ heads[:, kv + shape.kv_heads]
    return out.reshape(len(qkv), -1)


def delta(
    x: Doubles, mix: Sequence[tuple[Adapter, float]], layer: int, targets: Sequence[str]
) -> Doubles:
    """What a mix adds to one row at the given targets, side by side; 0 where it adapts nothing."""
    parts = []
    for target in targets:
        site = Site(layer, target)
        terms = [
            weight * adapter.shape.scale * doubles(pair.b) @ (doubles(pair.a) @ x)
            for adapter, weight in mix
            if (pair := adapter.pairs.get(site)) is not None
        ]
        parts.append(sum(terms) if terms else np.zeros(1))
    return np.concatenate([np.atleast_1d(part) for part in parts])


def tables(shape: LlamaShape) -> Rotary:
    frequencies = 100.0 ** -torch.linspace(0, 1, shape.head_dim // 2)
    angles = torch.outer(torch.arange(shape.context).float(), frequencies)
    return Rotary(angles.cos(), angles.sin())


def random_adapter(model: LlamaShape, lora: LoraShape, seed: int, binades: int = 0) -> Adapter:
    """Factors that bfloat16 holds exactly, each number up to so many times halved."""
    generator = torch.Generator().manual_seed(seed)

    def random(*size: int) -> torch.Tensor:
        halved = torch.randint(0, binades + 1, size, generator=generator)
        return torch.randn(size, generator=generator) * 2.0**-halved

    pairs = {}
    for site in lora.sites:
        width, out = model.size_of(site.target)
        a, b = random(lora.rank, width) / width**0.5, random(out, lora.rank) / lora.rank**0.5
        pairs[site] = LoraPair(a.bfloat16().float(), b.bfloat16().float())
    return Adapter(lora, BASE, pairs)


def packed(adapter: Adapter, model: LlamaShape, name: int = 0) -> PackedAdapter:
    digest = Digest(f"{name:064x}")
    return unpack(aligned(pack(adapter, digest, model), Rooms()), digest, adapter.base, model)


def weighted(adapter: PackedAdapter, weight: float = 1.0) -> Weighted[PackedAdapter]:
    return Weighted(adapter, weight)
