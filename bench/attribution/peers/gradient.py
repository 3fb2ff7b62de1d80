"""Scores by inner products of loss gradients in the LoRA matrices.

A step of plain gradient descent on a document changes a query's loss by minus the learning rate
times the inner product of their two gradients. "Gradient dot" takes it at the final adapter, the
cosine takes the lengths out, and TracIn (arXiv 2002.08484) sums it over checkpoints, each weighted
by its learning rate.
"""

import msgspec
import numpy as np
import torch
from torch import Tensor

from bench.attribution.peers.passes import document_rows, gradients, groups, query_rows
from bench.attribution.setting import Setting
from openledger.attribution.influence.gradients import ProbedModel
from openledger.lm.lora import Adapter


class _Products(msgspec.Struct, frozen=True):
    dots: np.ndarray  # (N, Q)
    document_lengths: np.ndarray  # (N,)
    query_lengths: np.ndarray  # (Q,)


def gradient_dot(setting: Setting) -> np.ndarray:
    """(N, Q) inner products at the final adapter."""
    return _products(setting, setting.adapter).dots


def gradient_cosine(setting: Setting) -> np.ndarray:
    """(N, Q) cosines at the final adapter."""
    found = _products(setting, setting.adapter)
    lengths = found.document_lengths[:, None] * found.query_lengths
    return found.dots / np.where(lengths > 0, lengths, 1)


def tracin(setting: Setting) -> np.ndarray:
    """(N, Q) inner products summed over all checkpoints, times their learning rates."""
    total = np.zeros((len(setting.documents), len(setting.queries)))
    for checkpoint in setting.checkpoints:
        total += checkpoint.learning_rate * _products(setting, checkpoint.adapter).dots
    return total


def _products(setting: Setting, adapter: Adapter) -> _Products:
    """All queries' gradients are kept, those of the documents only while they are used."""
    model = ProbedModel(setting.base, adapter)
    queries = _query_gradients(model, setting)  # (Q, K)
    dots = torch.zeros(len(setting.documents), len(queries))
    lengths = torch.zeros(len(setting.documents))
    for group in groups(model, document_rows(setting)):
        found = gradients(model, group.batch)  # (B, K)
        dots[group.places] = found @ queries.T
        lengths[group.places] = found.norm(dim=1)
    return _Products(_exact(dots), _exact(lengths), _exact(queries.norm(dim=1)))


def _query_gradients(model: ProbedModel, setting: Setting) -> Tensor:
    """(Q, K) of each answer's mean loss."""
    found: dict[int, Tensor] = {}
    for group in groups(model, query_rows(setting)):
        means = gradients(model, group.batch) / group.batch.weights.sum(1, keepdim=True)
        found.update(zip(group.places, means, strict=True))
    return torch.stack([found[place] for place in range(len(found))])


def _exact(tensor: Tensor) -> np.ndarray:
    return tensor.numpy().astype(np.float64)
