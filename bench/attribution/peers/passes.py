"""Runs the documents and queries of a setting through one adapter, in batches of like length.

Only a document's own tokens and an answer's tokens have a loss, each 1 as in training. A document
counts by the sum of its tokens' losses, since every token of a training batch weighs the same; a
query by the mean, so that long answers do not outweigh short ones.
"""

from collections.abc import Iterator, Sequence

import msgspec
import torch
from torch import Tensor

from bench.attribution.setting import Setting
from openledger.attribution.influence.gradients import Batch, ProbedModel, label_gradients
from openledger.lm.frozen import batches_by_length


class Row(msgspec.Struct, frozen=True):
    """One document or query as the model reads it."""

    tokens: tuple[int, ...]
    start: int  # first token that has a loss


class Group(msgspec.Struct, frozen=True):
    """Rows that go through the model together."""

    places: list[int]  # in the setting
    batch: Batch


def document_rows(setting: Setting) -> list[Row]:
    """In the setting's order."""
    return [Row(document.tokens, 1) for document in setting.documents]


def query_rows(setting: Setting) -> list[Row]:
    """In the setting's order."""
    return [Row(query.tokens, len(query.prompt)) for query in setting.queries]


def groups(model: ProbedModel, rows: Sequence[Row]) -> Iterator[Group]:
    """All rows, shortest first."""
    for places in batches_by_length([len(row.tokens) for row in rows]):
        chosen = [rows[place] for place in places]
        tokens, starts = [row.tokens for row in chosen], [row.start for row in chosen]
        yield Group(places, model.batch(tokens, starts))


def gradients(model: ProbedModel, batch: Batch) -> Tensor:
    """(B, K) of each row's summed loss in all K values of the adapter, float32."""
    states = model.upper(batch, has_graph=True)
    sites = model.gradients(states, label_gradients(model, batch, states).true).values()
    parts = [factor.flatten(1).float() for site in sites for factor in (site.a, site.b)]
    return torch.cat(parts, dim=1)


def mean_states(model: ProbedModel, batch: Batch) -> Tensor:
    """(B, D) of each row: the mean of the last states from which its tokens with a loss came."""
    states = model.upper(batch).float()  # (B, T - 1, D)
    weights = batch.weights[:, :, None]  # (B, T - 1, 1)
    return (states * weights).sum(1) / weights.sum(1)
