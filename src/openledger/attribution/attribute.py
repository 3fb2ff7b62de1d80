"""Scores one answer against a release: integer gain and integer influence, then shares.

The gain compares the adapter with its base on the answer's own tokens, at temperature 1. The query
vector is the gradient of the mean loss of a segment of the answer at each checkpoint of the
adapter, whitened as the training rows were; its dot products with the rows are exact integers.
From there `settlement.shares` is arithmetic that anyone can redo. No float leaves this module.

An answer goes through the model alone and once, however many segments it has: in a batch with
others its numbers would depend on what else was in the queue.
"""

from bisect import bisect_left
from collections.abc import Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import Protocol

import msgspec
import numpy as np
import torch
from torch import Tensor

from openledger.attribution.credit.signatures import Signatures
from openledger.attribution.influence.gradients import (
    Batch,
    Checkpoints,
    ProbedModel,
    label_gradients,
    log_chances,
)
from openledger.attribution.influence.rows import quantise_query
from openledger.attribution.method import (
    CAP_PPB,
    LONGEST_SEQUENCE,
    NULL_PSEUDOCOUNT,
)
from openledger.attribution.scoring import Scoring
from openledger.attribution.state import (
    AttributionState,
    digest_of_row,
    row_text,
)
from openledger.core.errors import DigestMismatchError
from openledger.core.types import PARTS_PER_BILLION
from openledger.settlement.shares import (
    PLACEBO_MICRONATS_PER_TOKEN,
    TOKEN_GAIN_CAP_MICRONATS,
    Attribution,
    ClusterScore,
    Gain,
    MemberScores,
    Segment,
    Unscored,
    combine,
    data_share_ppb,
    segment_lengths,
)

_MICRO = 1_000_000


class AnswerAttribution(msgspec.Struct, frozen=True):
    """One member's part in one answer, in the integers from which money follows."""

    unscored: Unscored | None  # why there are no segments
    leave_one_out_micronats: int  # gain of the mix over the mix without this member
    segments: tuple[Segment, ...]  # of all clusters, in order; without any where nothing was owed
    vectors: tuple[str, ...] = ()  # the query vector of each segment, as `state.row_text` tells it
    parents_micronats: tuple[int, ...] = ()  # of a merge: what each of its parents added

    @property
    def attribution(self) -> Attribution:
        """The shares of an answer to which this release alone added."""
        return combine([self.of(0, PARTS_PER_BILLION)])

    def of(self, release: int, weight_ppb: int) -> MemberScores:
        """What a statement says of it, as the part of a release at its weight in the mix."""
        added = self.leave_one_out_micronats
        parents = self.parents_micronats or msgspec.UNSET
        return MemberScores(release, weight_ppb, added, self.unscored, self.segments, parents)


class Chances(msgspec.Struct, frozen=True):
    """Natural log-probabilities of the answer's tokens that count, at temperature 1."""

    adapted: Tensor  # (N,) under all adapters of the mix
    plain: Tensor  # (N,) under the base alone


class Row(msgspec.Struct, frozen=True):
    """A prompt and its answer, as one sequence for a model."""

    ids: tuple[int, ...]
    begin: int  # of the answer
    tokens: int  # of the whole answer
    # Places of the answer's tokens that have a gain: something stands before them, and they are in
    # no signature.
    counted: tuple[int, ...]

    def segments(self) -> list[slice]:
        """Where each segment of the answer stands among the tokens that count."""
        ends = accumulate(segment_lengths(self.tokens), initial=self.begin)
        marks = [bisect_left(self.counted, end) for end in ends]
        return [slice(first, last) for first, last in pairwise(marks)]

    def batch(self, model: ProbedModel) -> Batch:
        """For a model; only the tokens that count have a loss."""
        batch = model.batch([self.ids], [len(self.ids)])
        batch.weights[0, [place - 1 for place in self.counted]] = 1
        return batch


class _Reading(msgspec.Struct, frozen=True):
    """An answer as one checkpoint sees it."""

    model: ProbedModel
    states: Tensor  # (1, T - 1, D) with their graph
    loss: Tensor  # (1, T - 1, D) gradients of each token's loss in them


class Auditor(Protocol):
    """Corrects influence by what the half-data adapters of the release say of the answer."""

    def losses(self, batch: Batch, places: Sequence[slice]) -> list[tuple[int, ...] | None]:
        """Of each stretch of the answer's tokens the mean loss under each adapter.

        In micro-nats a token; None where not all are finite.
        """
        ...

    def corrected(self, scores: Sequence[int], losses_micronats: Sequence[int]) -> Sequence[int]:
        """The scores of all clusters, in order, from those of influence."""
        ...


class _Scored(msgspec.Struct, frozen=True):
    """What the rows say of a stretch of an answer."""

    query: np.ndarray
    clusters: tuple[ClusterScore, ...]
    losses_micronats: tuple[int, ...] | msgspec.UnsetType = msgspec.UNSET


_UNOWED = _Scored(np.zeros(0, np.int16), ())  # no query vector is made


class Attributor:
    """One release, ready to score answers; not safe to share between threads."""

    def __init__(
        self, state: AttributionState, models: Checkpoints, auditor: Auditor | None = None
    ) -> None:
        """Join a state with the models it was made from; with an auditor, scores are corrected.

        Raises:
            DigestMismatchError: the state belongs to another base model or other adapted layers.
        """
        commitment = state.manifest.commitment
        for model in models.both:
            if (commitment.base, commitment.sites) != (model.base.digest, model.sites):
                raise DigestMismatchError("this attribution state is of another base or adapter")
        self._state = state
        self._models = models
        self._model = models.final
        self._auditor = auditor
        self._null_logs = _null_logs(state.rows.counts)
        self.signatures = Signatures(state.rows.signatures)
        self._scoring = Scoring(state)

    def attribute(self, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> AnswerAttribution:
        """Attribute one answer that this release gave alone.

        Tokens are exactly those that the model saw and gave; a prompt too long for the method is
        cut from its start. An answer without tokens, without gain over the base, or for which the
        model yields numbers that are not finite, pays no contributor.
        """
        row = lay_out(prompt_ids, answer_ids, [self.signatures])
        if row is None:
            return unscored(Unscored.NO_ANSWER)
        batch, states = self._read(row)
        plain = self._model.upper(batch, is_adapted=False)
        chances = Chances(
            log_chances(self._model, batch, states.detach()),
            log_chances(self._model, batch, plain),
        )
        added = gain_of(chances.adapted, chances.plain)
        return self._segments(row, batch, states, chances, added)

    def attribute_in_mix(self, row: Row, chances: Chances, added: int | None) -> AnswerAttribution:
        """Attribute one answer that several members gave, at this one's own parameters.

        Args:
            row: the answer.
            chances: under the whole mix and under the base.
            added: micronats that the mix lost without this member; None: no finite number.
        """
        return self._segments(row, *self._read(row), chances, added)

    def influence(
        self, prompt_ids: Sequence[int], answer_ids: Sequence[int]
    ) -> tuple[ClusterScore, ...]:
        """Score a whole answer, without segments, whether or not anything is owed for it.

        Nothing for one without tokens that count, or for which a model yields no finite numbers.
        """
        row = lay_out(prompt_ids, answer_ids, [self.signatures])
        if row is None or not row.counted:
            return ()
        (found,) = self._scored(row, *self._read(row), [slice(0, len(row.counted))])
        return () if found is None else found.clusters

    def features(self, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> Tensor | None:
        """(P,) of a whole answer; none for one without tokens that count."""
        row = lay_out(prompt_ids, answer_ids, [self.signatures])
        if row is None or not row.counted:
            return None
        return self._vector(self._readings(*self._read(row)), row.counted)

    def _read(self, row: Row) -> tuple[Batch, Tensor]:
        batch = row.batch(self._model)
        return batch, self._model.upper(batch, has_graph=True)

    def _readings(self, batch: Batch, states: Tensor) -> list[_Reading]:
        """At each checkpoint; `states` are those of the final one."""
        early = self._models.early
        return [
            _Reading(model, at, label_gradients(model, batch, at).true)
            for model, at in (
                (early, early.upper(batch, has_graph=True)),
                (self._model, states),
            )
        ]

    def _segments(
        self, row: Row, batch: Batch, states: Tensor, chances: Chances, added: int | None
    ) -> AnswerAttribution:
        places = row.segments()
        gains = [self._gain(row, chances, place) for place in places]
        owed = [gain for gain in gains if gain is not None]
        if added is None or len(owed) < len(gains):
            return unscored(Unscored.NOT_FINITE)
        paying = [number for number, gain in enumerate(owed) if data_share_ppb(gain)]
        scored: list[_Scored | None] = []
        if paying:
            scored = self._scored(row, batch, states, [places[number] for number in paying])
        by_place = dict(zip(paying, scored, strict=True))
        found = [by_place.get(number, _UNOWED) for number in range(len(places))]
        segments = [
            Segment(tokens, gain, digest_of_row(one.query), one.clusters, one.losses_micronats)
            for tokens, gain, one in zip(segment_lengths(row.tokens), owed, found, strict=True)
            if one is not None
        ]
        if len(segments) < len(places):
            return unscored(Unscored.NOT_FINITE)
        vectors = tuple(row_text(one.query) for one in found if one is not None)
        return AnswerAttribution(None, added, tuple(segments), vectors)

    def _scored(
        self, row: Row, batch: Batch, states: Tensor, places: Sequence[slice]
    ) -> list[_Scored | None]:
        """Stretches of the tokens that count; None where a number is not finite."""
        readings = self._readings(batch, states)
        vectors = [self._vector(readings, row.counted[place]) for place in places]
        losses: list[tuple[int, ...] | None] = [()] * len(places)
        if self._auditor is not None:
            losses = self._auditor.losses(batch, places)
        sound = [
            (self._quantised(vector), some)
            for vector, some in zip(vectors, losses, strict=True)
            if some is not None and bool(torch.isfinite(vector).all())
        ]
        if len(sound) < len(places):
            return [None] * len(places)
        queries = [query for query, _ in sound]
        if self._auditor is None:
            clusters = self._scoring.scores(queries)
            return [_Scored(query, some) for query, some in zip(queries, clusters, strict=True)]
        correct = self._auditor.corrected
        corrections = [partial(correct, losses_micronats=some) for _, some in sound]
        clusters = self._scoring.scores(queries, corrections)
        return [
            _Scored(query, some, losses)
            for (query, losses), some in zip(sound, clusters, strict=True)
        ]

    def _gain(self, row: Row, chances: Chances, place: slice) -> Gain | None:
        """What a segment's tokens gained; None where that is no finite number."""
        adapted = chances.adapted[place]
        null = self._null_logs[[row.ids[at] for at in row.counted[place]]]
        over_base, over_null = gain_of(adapted, chances.plain[place]), _micronats(adapted - null)
        if over_base is None or over_null is None:
            return None
        return Gain(over_base, sum(over_null), CAP_PPB, len(over_null))

    def _quantised(self, vector: Tensor) -> np.ndarray:
        commitment = self._state.manifest.commitment
        return quantise_query(vector, commitment.layout, commitment.scales)

    def _vector(self, readings: Sequence[_Reading], counted: Sequence[int]) -> Tensor:
        """(P,) of the mean loss of the tokens at these places of the sequence."""
        before = [place - 1 for place in counted]  # the states that predict them
        features = []
        for one in readings:
            gradient = torch.zeros_like(one.loss)
            gradient[:, before] = one.loss[:, before] / len(before)
            found = one.model.gradients(one.states, gradient)
            features += self._state.whitener.whiten(found)
        return torch.cat(features, dim=1)[0]


def lay_out(
    prompt_ids: Sequence[int], answer_ids: Sequence[int], signatures: Sequence[Signatures]
) -> Row | None:
    """One sequence; None where no token of the answer has anything before it.

    Args:
        prompt_ids: what was asked.
        answer_ids: what was answered.
        signatures: of every release that took part; what stands in any of them does not count, so
            that all of them measure one gain.
    """
    answer = list(answer_ids)[:LONGEST_SEQUENCE]
    prompt = list(prompt_ids)[max(0, len(prompt_ids) + len(answer) - LONGEST_SEQUENCE) :]
    start = max(1, len(prompt))
    ids = (*prompt, *answer)
    if len(ids) <= start:
        return None
    covers = [some.cover(ids) for some in signatures]
    counted = [at for at in range(start, len(ids)) if not any(cover[at] for cover in covers)]
    return Row(ids, len(prompt), len(answer_ids), tuple(counted))


def gain_of(more: Tensor, less: Tensor) -> int | None:
    """Micronats by which some tokens are likelier under `more` than under `less`.

    Args:
        more: (N,) log-probabilities.
        less: (N,) log-probabilities.

    Returns:
        The sum, each token's gain capped, less the placebo mean; None where it is not finite.
    """
    gains = _micronats(more - less)
    if gains is None:
        return None
    capped = sum(min(one, TOKEN_GAIN_CAP_MICRONATS) for one in gains)
    return capped - PLACEBO_MICRONATS_PER_TOKEN * len(gains)


def unscored(reason: Unscored) -> AnswerAttribution:
    """What is said of an answer without scores."""
    return AnswerAttribution(reason, 0, ())


def _micronats(nats: Tensor) -> list[int] | None:
    if not bool(torch.isfinite(nats).all()):
        return None
    return [round(one * _MICRO) for one in nats.tolist()]


def _null_logs(counts: np.ndarray) -> Tensor:
    """(V,) log-probabilities of the unigram null model, float32."""
    smoothed = torch.from_numpy(counts).double() + NULL_PSEUDOCOUNT
    return (smoothed.log() - smoothed.sum().log()).float()
