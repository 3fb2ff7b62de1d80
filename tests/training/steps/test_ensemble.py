"""Members of an ensemble are what each would be alone."""

from pathlib import Path

import msgspec
import pytest
import torch

from openledger.core.errors import InvalidInputError
from openledger.core.types import Digest
from openledger.lm.base import BaseModel
from openledger.lm.frozen import HiddenCache, hidden_cache
from openledger.lm.lora import Adapter, LoraHost, MixMember
from openledger.training.recipe import Recipe
from openledger.training.rows import Row, encode_rows
from openledger.training.steps.ensemble import Answer, Member, answer_losses, train_members
from openledger.training.steps.trainer import Trainer, batches
from tests.training.songs import QUICK, SEED, example

RECIPE = msgspec.structs.replace(QUICK, epochs=2, batch_size=3)
FREE = msgspec.structs.replace(RECIPE, anchor_weight_hundredths=0)


@pytest.fixture
def rows(base: BaseModel) -> tuple[Row, ...]:
    return encode_rows(base.tokenizer, [example(number) for number in range(10)], 64)


@pytest.fixture
def cache(base: BaseModel, rows: tuple[Row, ...], tmp_path: Path) -> HiddenCache:
    return hidden_cache(tmp_path, base, 2, [row.tokens for row in rows])


def trained_alone(
    base: BaseModel, recipe: Recipe, rows: tuple[Row, ...], cache: HiddenCache, member: Member
) -> Adapter:
    """By the trainer of `finetune`."""
    plan = batches([len(rows[place].tokens) for place in member.rows], recipe, member.seed)
    trainer = Trainer(base, recipe, member.seed, len(plan))
    with trainer.attached():
        for step, batch in enumerate(plan):
            places = [member.rows[place] for place in batch]
            trainer.backward([rows[place] for place in places], cache.padded(places))
            trainer.hold(step)
            trainer.update(step)
    return trainer.snapshot()


def furthest(one: Adapter, other: Adapter) -> float:
    """The largest difference between any two factors, against the largest value."""
    pairs = [
        (mine, theirs)
        for site in one.pairs
        for mine, theirs in (
            (one.pairs[site].a, other.pairs[site].a),
            (one.pairs[site].b, other.pairs[site].b),
        )
    ]
    return max(float((mine - theirs).abs().max() / theirs.abs().max()) for mine, theirs in pairs)


@pytest.mark.parametrize("recipe", [RECIPE, FREE], ids=["held", "free"])
def test_members_are_trained_as_each_would_be_alone(
    base: BaseModel, rows: tuple[Row, ...], cache: HiddenCache, recipe: Recipe
) -> None:
    members = [
        Member((0, 2, 4, 6, 8), SEED),
        Member((1, 3, 5, 7, 9, 0, 2), bytes(32)),  # of more steps than the others
        Member((5,), SEED),
    ]
    told: list[tuple[int, int]] = []

    found = train_members(
        base, recipe, rows, cache, members, lambda done, total: told.append((done, total))
    )

    assert told == [(step, 6) for step in range(1, 7)]
    for adapter, member in zip(found, members, strict=True):
        assert furthest(adapter, trained_alone(base, recipe, rows, cache, member)) < 1e-3
    assert furthest(found[0], found[2]) > 1e-2
    assert not any(pair.a.requires_grad for pair in found[0].pairs.values())


def test_losses_of_answers_are_those_of_each_adapter_alone(
    base: BaseModel, rows: tuple[Row, ...], cache: HiddenCache
) -> None:
    members = [Member((0, 1, 2), SEED), Member((3, 4, 5), bytes(32))]
    adapters = train_members(base, FREE, rows, cache, members)
    answers = [Answer(row.tokens, start) for row, start in zip(rows, (1, 5, 9), strict=False)]

    found = answer_losses(base, adapters, answers)

    assert found.shape == (2, 3)
    for number, adapter in enumerate(adapters):
        host = LoraHost(base.model, base.digest)
        host.add(Digest("1" * 64), adapter)
        with host.mixed([MixMember(Digest("1" * 64))]) as model, torch.no_grad():
            for place, answer in enumerate(answers):
                logits = model(torch.tensor([answer.tokens])).logits[0, answer.start - 1 : -1]
                wanted = torch.tensor(answer.tokens[answer.start :])
                naive = torch.nn.functional.cross_entropy(logits, wanted)
                assert float(found[number, place]) == pytest.approx(float(naive), rel=1e-4)
        host.close()


def test_a_member_without_rows_is_refused(
    base: BaseModel, rows: tuple[Row, ...], cache: HiddenCache
) -> None:
    with pytest.raises(InvalidInputError, match="at least one row"):
        train_members(base, FREE, rows, cache, [Member((0,), SEED), Member((), SEED)])


def test_a_loss_that_is_no_number_ends_all(
    base: BaseModel, rows: tuple[Row, ...], cache: HiddenCache
) -> None:
    wild = msgspec.structs.replace(FREE, learning_rate_micro=100_000, warmup_steps=0)
    for parameter in base.model.parameters():
        parameter.data.mul_(float("inf"))

    with pytest.raises(InvalidInputError, match="diverged"):
        train_members(base, wild, rows, cache, [Member((0, 1), SEED)])
