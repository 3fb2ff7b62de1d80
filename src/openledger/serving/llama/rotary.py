"""Rotary position embedding as two tables (RoFormer, arXiv 2104.09864)."""

import msgspec
import torch
from torch import Tensor

from openledger.lm.families.architecture import CausalModel
from openledger.serving.llama.shape import LlamaShape


class Rotary(msgspec.Struct, frozen=True):
    """The angles' cosines and sines."""

    cosines: Tensor  # (context, head_dim / 2) float32
    sines: Tensor  # the same


def rotary_of(model: CausalModel, shape: LlamaShape) -> Rotary:
    """The tables of a model, scaled as its configuration says."""
    embedding = model.model.rotary_emb
    frequencies = embedding.inv_freq.float()  # (head_dim / 2,)
    angles = torch.outer(torch.arange(shape.context).float(), frequencies)
    scaling = float(embedding.attention_scaling)
    return Rotary(cosines=angles.cos() * scaling, sines=angles.sin() * scaling)
