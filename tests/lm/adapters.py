"""Adapters that change something, for tests."""

import torch

from openledger.lm.base import BaseModel
from openledger.lm.lora import Adapter, LoraPair, LoraShape, random_adapter


def lively_adapter(base: BaseModel, shape: LoraShape, seed: int) -> Adapter:
    """An adapter that changes something: B is not zero."""
    generator = torch.Generator().manual_seed(seed)
    fresh = random_adapter(base.model, base.digest, shape, generator)
    pairs = {
        site: LoraPair(pair.a, torch.randn(pair.b.shape, generator=generator) * 0.1)
        for site, pair in fresh.pairs.items()
    }
    return Adapter(shape, base.digest, pairs)
