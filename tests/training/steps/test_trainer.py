from pathlib import Path

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from openledger.core.errors import InvalidInputError
from openledger.lm.base import BaseModel
from openledger.lm.frozen import hidden_cache
from openledger.training.recipe import Recipe
from openledger.training.rows import encode_rows
from openledger.training.steps.trainer import Trainer, anchor_order, batches
from tests.training.songs import QUICK, SEED, example


@given(
    lengths=st.lists(st.integers(2, 500), min_size=1, max_size=80),
    size=st.integers(1, 9),
    epochs=st.integers(1, 4),
)
def test_every_row_is_seen_once_an_epoch(lengths: list[int], size: int, epochs: int) -> None:
    plan = batches(lengths, Recipe(batch_size=size, epochs=epochs), SEED)

    steps = -(-len(lengths) // size)
    assert len(plan) == epochs * steps
    for epoch in range(epochs):
        seen = [row for batch in plan[epoch * steps : (epoch + 1) * steps] for row in batch]
        assert sorted(seen) == [*range(len(lengths))]
    sizes = {len(batch) for batch in plan}
    assert 0 < max(sizes) <= size
    assert max(sizes) - min(sizes) <= size // 2 + 1


def test_a_batch_holds_rows_of_like_length() -> None:
    lengths = [2 + 37 * row % 400 for row in range(200)]

    def padding(plan: list[list[int]]) -> int:
        return sum(max(lengths[r] for r in b) * len(b) - sum(lengths[r] for r in b) for b in plan)

    grouped = batches(lengths, Recipe(batch_size=4, epochs=2), SEED)
    order = [row for batch in grouped for row in batch]
    mixed = [order[i::100] for i in range(100)]

    assert padding(grouped) < padding(mixed) / 4
    assert [lengths[batch[0]] for batch in grouped] != sorted(lengths[b[0]] for b in grouped)


def test_order_and_initial_values_come_from_the_seed(base: BaseModel) -> None:
    one, same = (Trainer(base, QUICK, SEED, 4).parameters for _ in range(2))
    other = Trainer(base, QUICK, bytes(32), 4).parameters

    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0], other[0])
    lengths = [*range(2, 22)]
    assert batches(lengths, QUICK, SEED) != batches(lengths, QUICK, bytes(32))


def test_gradients_equal_those_of_the_whole_model(base: BaseModel, tmp_path: Path) -> None:
    rows = encode_rows(base.tokenizer, [example(0), example(1, "X:1\nK:C\nCD|")], 64)
    trainer = Trainer(base, QUICK, SEED, 4)
    cache = hidden_cache(tmp_path, base, 2, [row.tokens for row in rows])
    for factor in trainer.parameters:
        factor.data.add_(0.01)  # B is zero at first, and then A has no gradient

    with trainer.attached():
        loss = trainer.backward(rows, cache.padded([0, 1]))
        found = [factor.grad for factor in trainer.parameters]
        trainer.optimiser.zero_grad()
        naive = torch.zeros(())
        for row in rows:
            ids = torch.tensor([row.tokens])
            naive = naive + base.model(ids, labels=ids).loss * row.predicted
        mean = naive / sum(row.predicted for row in rows)
        mean.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped

    assert loss == pytest.approx(float(mean.detach()), rel=1e-5)
    for gradient, factor in zip(found, trainer.parameters, strict=True):
        assert gradient is not None
        assert factor.grad is not None
        assert torch.allclose(gradient, factor.grad, atol=1e-5)


def test_the_learning_rate_rises_then_falls_to_zero(base: BaseModel) -> None:
    trainer = Trainer(base, QUICK, SEED, 10)
    for factor in trainer.parameters:
        factor.grad = torch.ones_like(factor)

    rates = []
    for step in range(10):
        trainer.update(step)
        rates.append(trainer.optimiser.param_groups[0]["lr"])

    assert rates[0] == pytest.approx(0.5 * QUICK.learning_rate)
    assert max(rates) == pytest.approx(0.9 * QUICK.learning_rate)
    assert rates[-1] == pytest.approx(0.1 * QUICK.learning_rate)


def test_all_anchors_come_in_turn() -> None:
    order = [place for step in anchor_order(10, 30, SEED) for place in step]

    assert sorted(order) == sorted([*range(10)] * 3)
    assert anchor_order(10, 15, SEED) != anchor_order(10, 15, bytes(32))


@pytest.mark.parametrize("weight", [0, 100])
def test_holding_adds_gradients_only_when_the_recipe_asks_for_it(
    base: BaseModel, weight: int
) -> None:
    recipe = msgspec.structs.replace(QUICK, anchor_weight_hundredths=weight)
    trainer = Trainer(base, recipe, SEED, 4)
    for factor in trainer.parameters:
        factor.data.add_(0.05)

    with trainer.attached():
        trainer.hold(0)

    assert all((factor.grad is not None) == (weight > 0) for factor in trainer.parameters)


def test_a_diverging_loss_is_an_error(base: BaseModel, tmp_path: Path) -> None:
    rows = encode_rows(base.tokenizer, [example(0)], 64)
    cache = hidden_cache(tmp_path, base, 2, [row.tokens for row in rows])
    trainer = Trainer(base, QUICK, SEED, 4)
    trainer.parameters[1].data.fill_(float("nan"))

    with trainer.attached(), pytest.raises(InvalidInputError, match="diverged"):
        trainer.backward(rows, cache.padded([0]))
