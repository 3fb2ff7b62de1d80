"""Attributes answers that several adapters gave together, or one at another weight than 1.

An adapter alone at weight 1 is its `Attributor`'s business, unless it was merged from others: what
each of these added is asked as it is of the members of a mix. In a mix, what a member added is the
gain of the mix over the mix without it, by the same rule as the gain over the base: capped per
token, less the placebo mean. How far the answer is owed to data at all is the gain of the whole
mix. Whose data it was is asked at each member's own parameters, since its training rows were
measured there.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import torch

from openledger.attribution.attribute import (
    AnswerAttribution,
    Attributor,
    Chances,
    Row,
    gain_of,
    lay_out,
    unscored,
)
from openledger.attribution.card.panel import open_attributor
from openledger.attribution.influence.gradients import ProbedModel, log_chances
from openledger.attribution.state import AttributionState
from openledger.core.types import PARTS_PER_BILLION, Digest
from openledger.lm.base import BaseModel
from openledger.lm.checkpoint import load_adapter
from openledger.lm.lora import Adapter, added_up
from openledger.settlement.shares import Unscored


class Member(msgspec.Struct, frozen=True):
    """One adapter of a mix, ready."""

    adapter: Adapter
    weight_ppb: int
    attributor: Attributor | None  # None: it came without a training manifest
    # Of a merge what it is without each of its parents; None: without its only one it is nothing.
    without: tuple[Adapter | None, ...] = ()


class Mix:
    """The members that answer together; not safe to share between threads."""

    def __init__(self, base: BaseModel, members: Sequence[Member]) -> None:
        self._base, self._members = base, tuple(members)
        self._whole: ProbedModel | None = None
        self._without: list[ProbedModel | None] = []
        is_alone = [member.weight_ppb for member in members] == [PARTS_PER_BILLION]
        if not is_alone or members[0].without:
            self._whole = _together(base, members)
        if len(members) > 1:
            self._without = [_without(base, members, place, None) for place in range(len(members))]

    def attribute(
        self, prompt_ids: Sequence[int], answer_ids: Sequence[int]
    ) -> tuple[AnswerAttribution, ...]:
        """Each member's part in one answer, in the order of the mix."""
        if self._whole is None:
            (member,) = self._members
            if member.attributor is None:
                return (unscored(Unscored.NO_MANIFEST),)
            return (member.attributor.attribute(prompt_ids, answer_ids),)
        ready = [one.attributor for one in self._members if one.attributor is not None]
        row = lay_out(prompt_ids, answer_ids, [one.signatures for one in ready])
        if row is None:
            reasons = [
                Unscored.NO_MANIFEST if member.attributor is None else Unscored.NO_ANSWER
                for member in self._members
            ]
            return tuple(unscored(reason) for reason in reasons)
        return self._attribute(self._whole, row)

    def _attribute(self, whole: ProbedModel, row: Row) -> tuple[AnswerAttribution, ...]:
        adapted = _chances(whole, row, is_adapted=True)
        chances = Chances(adapted, _chances(whole, row, is_adapted=False))

        def added(less: ProbedModel | None) -> int | None:
            """What the whole mix gains over what is left of it; nothing left is the base."""
            if less is None:
                return gain_of(adapted, chances.plain)
            return gain_of(adapted, _chances(less, row, is_adapted=True))

        gains = [added(less) for less in self._without or [None]]
        found = []
        for place, (member, gain) in enumerate(zip(self._members, gains, strict=True)):
            if member.attributor is None:
                found.append(AnswerAttribution(Unscored.NO_MANIFEST, gain or 0, ()))
            else:
                scores = member.attributor.attribute_in_mix(row, chances, gain)
                # One model after another: of many members and parents they would not fit together.
                parents = [
                    added(_without(self._base, self._members, place, adapter))
                    for adapter in member.without
                ]
                found.append(_with_parents(scores, parents))
        return tuple(found)


def open_member(
    state: AttributionState,
    base: BaseModel,
    released: Digest,
    weight_ppb: int,
    folder_of: Callable[[Digest], Path],
    *,
    is_audited: bool,
) -> Member:
    """Make a release ready to answer for its part in a mix, its adapters read from their folders.

    Raises:
        NotFoundError: an adapter is not there.
        DigestMismatchError: an adapter is another than its digest says.
        NotAllowedError: answers are to be audited, and it committed to no half-data adapters.
    """
    parents = state.manifest.commitment.parents or ()

    def read(digest: Digest) -> Adapter:
        return load_adapter(folder_of(digest), base, digest)

    return Member(
        read(released),
        weight_ppb,
        open_attributor(state, base, released, folder_of, is_audited=is_audited),
        tuple(None if one.without is None else read(one.without) for one in parents),
    )


def _with_parents(scores: AnswerAttribution, gains: Sequence[int | None]) -> AnswerAttribution:
    if scores.unscored is not None or not gains:
        return scores
    finite = tuple(gain for gain in gains if gain is not None)
    if len(finite) < len(gains):
        return unscored(Unscored.NOT_FINITE)  # whose adapter is broken is paid nothing
    return msgspec.structs.replace(scores, parents_micronats=finite)


def _without(
    base: BaseModel, members: Sequence[Member], place: int, left: Adapter | None
) -> ProbedModel | None:
    """A mix of which one member is gone, or of a merge only this is left; None: nothing is."""
    rest = [] if left is None else [msgspec.structs.replace(members[place], adapter=left)]
    some = [*members[:place], *rest, *members[place + 1 :]]
    return _together(base, some) if some else None


def _together(base: BaseModel, members: Sequence[Member]) -> ProbedModel:
    weights = [member.weight_ppb / PARTS_PER_BILLION for member in members]
    terms = [member.adapter for member in members]
    return ProbedModel(base, added_up(base.model, terms, weights))


def _chances(model: ProbedModel, row: Row, *, is_adapted: bool) -> torch.Tensor:
    batch = row.batch(model)
    return log_chances(model, batch, model.upper(batch, is_adapted=is_adapted))
