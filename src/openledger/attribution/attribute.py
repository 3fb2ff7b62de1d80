"""Scores one answer against a release: integer gain and integer influence, then shares.

The gain compares the adapter with its base on the answer's own tokens, at temperature 1. The query
vector is the gradient of the answer's mean loss, whitened and projected as the training rows were;
its dot products with the rows are exact integers. From there `settlement.shares` is arithmetic
that anyone can redo. No float leaves this module.
"""

from collections.abc import Sequence
from math import isqrt

import msgspec
import numpy as np
import torch
from torch import Tensor

from openledger.attribution.credit.signatures import Signatures
from openledger.attribution.influence.gradients import (
    Batch,
    ProbedModel,
    label_gradients,
    log_chances,
)
from openledger.attribution.influence.sketch import Sketch, dot, quantise_query
from openledger.attribution.method import (
    CAP_PPB,
    LONGEST_SEQUENCE,
    NULL_PSEUDOCOUNT,
    PLACEBO_MICRONATS_PER_TOKEN,
    TOKEN_GAIN_CAP_MICRONATS,
)
from openledger.attribution.state import AttributionState, DocumentEntry, digest_of_row
from openledger.core.errors import DigestMismatchError
from openledger.core.types import Digest
from openledger.settlement.shares import (
    Attribution,
    ClusterScore,
    DocumentScore,
    Gain,
    data_share_ppb,
    is_paid,
    shares,
)

_MICRO = 1_000_000
_NO_QUERY = np.zeros(0, np.int16)


class AnswerAttribution(msgspec.Struct, frozen=True):
    """Whose data made one answer, with the integers it follows from."""

    tokens: int  # that count: something stands before them, and they are in no signature
    gain: Gain
    query: Digest  # of the query vector; of no bytes where nothing was owed and none was made
    clusters: tuple[ClusterScore, ...]  # all of them, in order; none where nothing was owed
    attribution: Attribution


class Attributor:
    """One release, ready to score answers; not safe to share between threads."""

    def __init__(self, state: AttributionState, model: ProbedModel) -> None:
        """Join a state with the model it was made from.

        Raises:
            DigestMismatchError: the state belongs to another base model or other adapted layers.
        """
        commitment = state.manifest.commitment
        if (commitment.base, commitment.sites) != (model.base.digest, model.sites):
            raise DigestMismatchError("this attribution state belongs to another base or adapter")
        self._state = state
        self._model = model
        self._sketch = Sketch(commitment.seed, commitment.layout)
        self._null_logs = _null_logs(state.rows.counts)
        self._signatures = Signatures(state.rows.signatures)
        self._sharing = _documents_by_cluster(state)

    def attribute(self, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> AnswerAttribution:
        """Attribute one answer.

        Tokens are exactly those that the model saw and gave; a prompt too long for the method is
        cut from its start. An answer without tokens, without gain over the base, or for which the
        model yields numbers that are not finite, pays no contributor.
        """
        batch = self._batch(prompt_ids, answer_ids)
        if batch is None:
            return _owed_to_nobody(0, Gain(0, 0, CAP_PPB))
        tokens = int(batch.weights.sum())
        states = self._model.upper(batch, is_adapted=True, has_graph=True)
        gain = self._gain(batch, states)
        if data_share_ppb(gain) == 0:
            return _owed_to_nobody(tokens, gain)
        vector = self._vector(batch, states)
        if not bool(torch.isfinite(vector).all()):
            return _owed_to_nobody(tokens, Gain(0, 0, CAP_PPB))
        query = self._quantised(vector)
        clusters = self._score(query)
        return AnswerAttribution(
            tokens, gain, digest_of_row(query), clusters, shares(gain, clusters)
        )

    def influence(
        self, prompt_ids: Sequence[int], answer_ids: Sequence[int]
    ) -> tuple[ClusterScore, ...]:
        """Score an answer whether or not anything is owed for it; none for one without tokens."""
        batch = self._batch(prompt_ids, answer_ids)
        if batch is None:
            return ()
        states = self._model.upper(batch, is_adapted=True, has_graph=True)
        return self._score(self._quantised(self._vector(batch, states)))

    def _batch(self, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> Batch | None:
        """One row; None where no token of the answer counts.

        The first token of all does not, having nothing before it, nor does one in a signature.
        """
        answer = list(answer_ids)[:LONGEST_SEQUENCE]
        prompt = list(prompt_ids)[max(0, len(prompt_ids) + len(answer) - LONGEST_SEQUENCE) :]
        start = max(1, len(prompt))
        row = [*prompt, *answer]
        if len(row) <= start:
            return None
        batch = self._model.batch([row], [start])
        batch.weights[0, torch.tensor(self._signatures.cover(row)[1:])] = 0
        return batch if bool(batch.weights.any()) else None

    def _quantised(self, vector: Tensor) -> np.ndarray:
        commitment = self._state.manifest.commitment
        return quantise_query(vector, commitment.layout, commitment.scales)

    def _gain(self, batch: Batch, states: Tensor) -> Gain:
        with_adapter = log_chances(self._model, batch, states.detach())  # (N,)
        plain = self._model.upper(batch, is_adapted=False)
        without = log_chances(self._model, batch, plain)
        tokens = batch.ids[0, 1:][batch.weights[0] > 0]
        gains = [with_adapter - without, with_adapter - self._null_logs[tokens]]
        if not all(bool(torch.isfinite(gain).all()) for gain in gains):
            return Gain(0, 0, CAP_PPB)
        over_base, over_null = ([round(g * _MICRO) for g in gain.tolist()] for gain in gains)
        capped = sum(min(g, TOKEN_GAIN_CAP_MICRONATS) for g in over_base)
        return Gain(
            over_base_micronats=capped - PLACEBO_MICRONATS_PER_TOKEN * len(over_base),
            over_null_micronats=sum(over_null),
            cap_ppb=CAP_PPB,
        )

    def _vector(self, batch: Batch, states: Tensor) -> Tensor:
        gradient = label_gradients(self._model, batch, states).true / batch.weights.sum()
        features = self._state.whitener.features(self._model.flow(states, gradient).gradients)
        return self._sketch.project(features)[0]  # (P,)

    def _score(self, query: np.ndarray) -> tuple[ClusterScore, ...]:
        manifest, rows = self._state.manifest, self._state.rows
        noise = _Noise(dot(query, rows.placebo), [entry.energy for entry in manifest.placebo])
        scored = []
        for entry, score in zip(manifest.clusters, dot(query, rows.clusters), strict=True):
            cluster = ClusterScore(entry.cluster, score, noise.floor(entry.energy), ())
            if is_paid(cluster):
                documents = self._documents(query, cluster)
                cluster = msgspec.structs.replace(cluster, documents=documents)
            scored.append(cluster)
        return tuple(scored)

    def _documents(self, query: np.ndarray, cluster: ClusterScore) -> tuple[DocumentScore, ...]:
        members = self._sharing[cluster.cluster]
        scores = [cluster.score]
        if len(members) > 1:
            scores = dot(query, self._state.rows.documents[[member.row for member in members]])
        return tuple(
            DocumentScore(member.entry.document, member.entry.account, score, member.entry.parts)
            for member, score in zip(members, scores, strict=True)
        )


class _Member(msgspec.Struct, frozen=True):
    entry: DocumentEntry
    row: int  # in `Rows.documents`; meaningless where the document is alone


class _Noise:
    """The floor of a cluster: what as much text without content would have scored.

    The placebo rows show the mean square of a score per unit of squared length; the errors of
    different documents are taken as independent, so squared lengths add up.
    """

    def __init__(self, scores: Sequence[int], energies: Sequence[int]) -> None:
        self._pairs = [pair for pair in zip(scores, energies, strict=True) if pair[1]]

    def floor(self, energy: int) -> int:
        if not self._pairs:
            return 0
        total = sum(score * score * energy // length for score, length in self._pairs)
        return isqrt(total // len(self._pairs))


def _owed_to_nobody(tokens: int, gain: Gain) -> AnswerAttribution:
    return AnswerAttribution(tokens, gain, digest_of_row(_NO_QUERY), (), shares(gain, ()))


def _null_logs(counts: np.ndarray) -> Tensor:
    """(V,) log-probabilities of the unigram null model, float32."""
    smoothed = torch.from_numpy(counts).double() + NULL_PSEUDOCOUNT
    return (smoothed.log() - smoothed.sum().log()).float()


def _documents_by_cluster(state: AttributionState) -> dict[int, list[_Member]]:
    members: dict[int, list[_Member]] = {}
    row = 0
    for entry in state.manifest.documents:
        members.setdefault(entry.cluster, []).append(_Member(entry, row))
        row += entry.row is not None
    return members
