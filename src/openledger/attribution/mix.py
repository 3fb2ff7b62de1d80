"""Attributes answers that several adapters gave together, or one at another weight than 1.

An adapter alone at weight 1 is its `Attributor`'s business. In a mix, what a member added is the
gain of the mix over the mix without it, by the same rule as the gain over the base: capped per
token, less the placebo mean. How far the answer is owed to data at all is the gain of the whole
mix. Whose data it was is asked at each member's own parameters, since its training rows were
measured there.
"""

from collections.abc import Sequence

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
from openledger.attribution.influence.gradients import ProbedModel, log_chances
from openledger.core.types import PARTS_PER_BILLION
from openledger.lm.base import BaseModel
from openledger.lm.lora import Adapter, added_up
from openledger.settlement.shares import Unscored


class Member(msgspec.Struct, frozen=True):
    """One adapter of a mix, ready."""

    adapter: Adapter
    weight_ppb: int
    attributor: Attributor | None  # None: it came without a training manifest


class Mix:
    """The members that answer together; not safe to share between threads."""

    def __init__(self, base: BaseModel, members: Sequence[Member]) -> None:
        self._members = tuple(members)
        self._whole: ProbedModel | None = None
        self._without: list[ProbedModel] = []
        if [member.weight_ppb for member in members] != [PARTS_PER_BILLION]:
            self._whole = _together(base, members)
        if len(members) > 1:
            others = [[*members[:i], *members[i + 1 :]] for i in range(len(members))]
            self._without = [_together(base, some) for some in others]

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
        # Without its only member a mix is the base.
        without = [_chances(model, row, is_adapted=True) for model in self._without]
        found = []
        for member, less in zip(self._members, without or [chances.plain], strict=True):
            added = gain_of(adapted, less)
            if member.attributor is None:
                found.append(AnswerAttribution(Unscored.NO_MANIFEST, added or 0, ()))
            else:
                found.append(member.attributor.attribute_in_mix(row, chances, added))
        return tuple(found)


def _together(base: BaseModel, members: Sequence[Member]) -> ProbedModel:
    weights = [member.weight_ppb / PARTS_PER_BILLION for member in members]
    terms = [member.adapter for member in members]
    return ProbedModel(base, added_up(base.model, terms, weights))


def _chances(model: ProbedModel, row: Row, *, is_adapted: bool) -> torch.Tensor:
    batch = row.batch(model)
    return log_chances(model, batch, model.upper(batch, is_adapted=is_adapted))
