from pathlib import Path

import pytest
import torch

from openledger.core.errors import InvalidInputError, StoppedError
from openledger.lm.base import BaseModel
from openledger.lm.lora import MixedLinear
from openledger.training.finetune import finetune
from openledger.training.merging.outcome import Member, Without, merge_members
from openledger.training.merging.ways import Merging, Term, Way, merge
from openledger.training.task import FineTuned, Task
from tests.training.songs import QUICK, example, small_task

SUM = Merging(Way.SVD)


@pytest.fixture(scope="session")
def tuned(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> FineTuned:
    from openledger.lm.base import load_base

    return finetune(load_base(base_folder), small_task(), tmp_path_factory.mktemp("run"))


def of(tuned: FineTuned, weight: float = 1.0) -> Member:
    return Member(tuned.adapter, tuned.early, weight, str(weight))


def test_a_merge_of_one_measures_what_its_training_did(
    base: BaseModel, tuned: FineTuned, tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []

    found = merge_members(
        base, [of(tuned)], SUM, small_task(), tmp_path, lambda *seen: told.append(seen)
    )

    assert found.base == tuned.base
    assert found.without == (Without(None, tuned.base),)
    assert found.tuned.nats == pytest.approx(tuned.tuned.nats, rel=1e-4)
    assert found.tuned.tokens == tuned.tuned.tokens
    assert found.lost < 1e-4
    assert {done for done, _ in told} == {0, 1, 3}  # before each weight of each adapter
    assert {total for _, total in told} == {3}
    assert not any(isinstance(one, MixedLinear) for one in base.model.modules())


def test_the_early_adapters_are_merged_alike(
    base: BaseModel, tuned: FineTuned, tmp_path: Path
) -> None:
    task = small_task()
    found = merge_members(base, [of(tuned, 0.5)], SUM, task, tmp_path)

    shape = task.recipe.shape(base.layers)
    expected = merge(base, [Term(tuned.early, 0.5, "0.5")], SUM, shape, task.seed).adapter
    for site, pair in found.early.pairs.items():
        assert torch.equal(pair.b @ pair.a, expected.pairs[site].b @ expected.pairs[site].a)


def test_a_member_that_does_nothing_adds_nothing(
    base: BaseModel, tuned: FineTuned, tmp_path: Path
) -> None:
    idle = of(tuned, 1e-9)

    found = merge_members(base, [of(tuned), idle], SUM, small_task(), tmp_path)

    teacher, other = found.without
    assert teacher.measured.nats == pytest.approx(found.base.nats, rel=1e-6)
    assert other.measured.nats == pytest.approx(found.tuned.nats, rel=1e-6)
    assert teacher.measured.nats > 1.2 * other.measured.nats
    assert other.adapter is not None
    for site, pair in found.adapter.pairs.items():
        left = other.adapter.pairs[site]
        assert torch.allclose(left.b @ left.a, pair.b @ pair.a, atol=1e-5)


def test_without_texts_or_members_there_is_no_merge(
    base: BaseModel, tuned: FineTuned, tmp_path: Path
) -> None:
    blind = Task(QUICK, bytes(32), (example(1),), ())

    with pytest.raises(InvalidInputError, match="give it some text"):
        merge_members(base, [of(tuned)], SUM, blind, tmp_path)
    with pytest.raises(InvalidInputError, match="at least one adapter"):
        merge_members(base, [], SUM, small_task(), tmp_path)


def test_whoever_listens_may_stop_it_and_the_base_is_plain_again(
    base: BaseModel, tuned: FineTuned, tmp_path: Path
) -> None:
    def stop(done: int, _: int) -> None:
        if done == 1:
            raise StoppedError("enough")

    with pytest.raises(StoppedError):
        merge_members(base, [of(tuned)], SUM, small_task(), tmp_path, stop)
    again = merge_members(base, [of(tuned)], SUM, small_task(), tmp_path)

    assert not any(isinstance(one, MixedLinear) for one in base.model.modules())
    assert again.base == tuned.base
