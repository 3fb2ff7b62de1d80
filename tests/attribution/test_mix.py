"""Several adapters give one answer: each is credited with what it added."""

from collections.abc import Sequence
from copy import copy
from pathlib import Path

import numpy as np
import pytest

from openledger.attribution.attribute import Attributor, gain_of, lay_out
from openledger.attribution.credit.signatures import Signatures
from openledger.attribution.influence.gradients import ProbedModel, log_chances
from openledger.attribution.method import METHOD_VERSION
from openledger.attribution.mix import Member, Mix
from openledger.attribution.release import build
from openledger.core.types import PARTS_PER_BILLION
from openledger.lm.base import BaseModel
from openledger.lm.lora import Adapter
from openledger.settlement.shares import MemberScores, Unscored, check_members, combine, member_ppb
from tests.attribution.releases import RECIPE, alone, examples_of, some_text, trained_adapter

TEXTS = tuple(f"{some_text(i, words=3)} " * 4 for i in range(4))
HALF = PARTS_PER_BILLION // 2
LITTLE = PARTS_PER_BILLION // 20


@pytest.fixture(scope="module")
def adapters(base: BaseModel) -> list[Adapter]:
    """The first learnt two of the texts, the second the others."""
    rows = base.tokenizer.encode_documents(TEXTS)
    return [trained_adapter(base, rows[:2]), trained_adapter(base, rows[2:], seed=1)]


@pytest.fixture(scope="module")
def attributors(
    tmp_path_factory: pytest.TempPathFactory, base: BaseModel, adapters: list[Adapter]
) -> list[Attributor]:
    made = []
    for number, adapter in enumerate(adapters):
        folder: Path = tmp_path_factory.mktemp("mix") / "state"
        models = alone(ProbedModel(base, adapter))
        texts = TEXTS[2 * number : 2 * number + 2]
        examples = examples_of(base, texts, [2 * number, 2 * number + 1])
        made.append(Attributor(build(folder, models, examples, RECIPE), models))
    return made


def stated(mix: Mix, base: BaseModel, text: str) -> list[MemberScores]:
    """As a statement says it, releases numbered from 1."""
    ids = base.tokenizer.encode(text)
    found = mix.attribute(ids[:8], ids[8:])
    return [
        MemberScores(number, HALF, one.leave_one_out_micronats, one.unscored, one.segments)
        for number, one in enumerate(found, 1)
    ]


def pair(base: BaseModel, adapters: Sequence[Adapter], scorers: Sequence[Attributor | None]) -> Mix:
    members = zip(adapters, scorers, strict=True)
    return Mix(base, [Member(adapter, PARTS_PER_BILLION, scorer) for adapter, scorer in members])


def test_a_mix_of_one_is_that_one(
    base: BaseModel, adapters: list[Adapter], attributors: list[Attributor]
) -> None:
    ids = base.tokenizer.encode(TEXTS[0])
    alone = pair(base, adapters[:1], attributors[:1])

    assert alone.attribute(ids[:8], ids[8:]) == (attributors[0].attribute(ids[:8], ids[8:]),)


def test_who_learnt_the_text_earns_it(
    base: BaseModel, adapters: list[Adapter], attributors: list[Attributor]
) -> None:
    mix = pair(base, adapters, attributors)
    for number, text in enumerate(TEXTS):
        members = stated(mix, base, text)
        best = max(combine(members).shares, key=lambda share: share.weight_ppb)

        assert member_ppb(members)[number // 2] > 900_000_000
        assert best.account == f"0x{number:040x}"


def test_a_member_added_what_the_mix_loses_without_it(
    base: BaseModel, adapters: list[Adapter], attributors: list[Attributor]
) -> None:
    """The mix without the first is the second alone."""
    ids = base.tokenizer.encode(TEXTS[1])
    first, second = pair(base, adapters, attributors).attribute(ids[:8], ids[8:])
    other = ProbedModel(base, adapters[1])
    batch = other.batch([ids], [8])
    alone = log_chances(other, batch, other.upper(batch, is_adapted=True))
    plain = log_chances(other, batch, other.upper(batch, is_adapted=False))
    of_mix = first.segments[0].gain.over_base_micronats

    assert second.segments[0].gain.over_base_micronats == of_mix
    assert first.leave_one_out_micronats > second.leave_one_out_micronats
    assert (gain_of(alone, plain) or 0) < of_mix


def test_the_order_of_a_mix_moves_no_money_beyond_rounding(
    base: BaseModel, adapters: list[Adapter], attributors: list[Attributor]
) -> None:
    forth = stated(pair(base, adapters, attributors), base, TEXTS[2])
    back = stated(pair(base, adapters[::-1], attributors[::-1]), base, TEXTS[2])

    assert member_ppb(back)[::-1] == pytest.approx(member_ppb(forth), abs=1_000)


def test_a_member_without_a_manifest_earns_for_its_builder_alone(
    base: BaseModel, adapters: list[Adapter], attributors: list[Attributor]
) -> None:
    members = stated(pair(base, adapters, [None, attributors[1]]), base, TEXTS[0])
    known = stated(pair(base, adapters, attributors), base, TEXTS[0])

    assert members[0].unscored is Unscored.NO_MANIFEST
    assert members[0].segments == ()
    assert member_ppb(members) == member_ppb(known)
    assert combine(members).nobody_ppb > 900_000_000


def test_the_signatures_of_one_member_hold_for_all(
    base: BaseModel, adapters: list[Adapter], attributors: list[Attributor]
) -> None:
    """Else the members would state different gains of one mix, which a checker refuses."""
    ids = base.tokenizer.encode(TEXTS[0])
    second = copy(attributors[1])
    second.signatures = Signatures(np.array([ids[12:16]], np.int32))
    without = stated(pair(base, adapters, attributors), base, TEXTS[0])
    members = stated(pair(base, adapters, [attributors[0], second]), base, TEXTS[0])

    check_members(METHOD_VERSION, members)
    row = lay_out(ids[:8], ids[8:], [one.signatures for one in (attributors[0], second)])
    assert row is not None
    assert not set(range(12, 16)) & set(row.counted)
    assert members[0].segments[0].gain != without[0].segments[0].gain
    assert members[0].segments[0].tokens == without[0].segments[0].tokens


def test_an_empty_answer_of_a_mix_earns_nobody_anything(
    base: BaseModel, adapters: list[Adapter], attributors: list[Attributor]
) -> None:
    found = pair(base, adapters, [attributors[0], None]).attribute([5, 6], [])

    assert [one.unscored for one in found] == [Unscored.NO_ANSWER, Unscored.NO_MANIFEST]
    assert [one.leave_one_out_micronats for one in found] == [0, 0]


def test_a_release_at_another_weight_added_what_it_gains_at_that(
    base: BaseModel, adapters: list[Adapter], attributors: list[Attributor]
) -> None:
    ids = base.tokenizer.encode(TEXTS[0])
    mixes = [
        Mix(base, [Member(adapters[0], weight, attributors[0])])
        for weight in (PARTS_PER_BILLION, LITTLE)
    ]
    (whole,), (faint,) = (mix.attribute(ids[:8], ids[8:]) for mix in mixes)
    member = MemberScores(1, LITTLE, faint.leave_one_out_micronats, faint.unscored, faint.segments)

    check_members(METHOD_VERSION, [member])
    assert 0 < faint.leave_one_out_micronats < whole.leave_one_out_micronats
