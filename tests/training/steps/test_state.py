from pathlib import Path

import pytest
import torch

from openledger.core.errors import ConflictError, InvalidInputError
from openledger.core.types import Digest
from openledger.lm.base import BaseModel
from openledger.training.steps.state import Kept, Position, Probe, State, load_state, save_state
from openledger.training.steps.trainer import Trainer
from tests.training.songs import QUICK, SEED

TASK = Digest("a" * 64)


def moved_trainer(base: BaseModel, steps: int) -> Trainer:
    trainer = Trainer(base, QUICK, SEED, 10)
    for step in range(steps):
        for i, factor in enumerate(trainer.parameters):
            factor.grad = torch.full_like(factor, 0.1 * (i + step))
        trainer.update(step)
    return trainer


def test_a_trainer_goes_on_where_the_file_left_it(base: BaseModel, tmp_path: Path) -> None:
    trainer = moved_trainer(base, 3)
    state = State(
        Position(TASK, step=3, tokens=99, probes=(Probe(3, 1.5),), strikes=1),
        Kept(best=trainer.snapshot()),
    )
    save_state(tmp_path / "s.safetensors", trainer, state)

    fresh = Trainer(base, QUICK, SEED, 10)
    found = load_state(tmp_path / "s.safetensors", fresh, TASK)

    assert found.position == state.position
    assert found.kept.early is None
    assert found.kept.best is not None
    for one in (trainer, fresh):
        for factor in one.parameters:
            factor.grad = torch.ones_like(factor)
        one.update(3)
    for a, b in zip(trainer.parameters, fresh.parameters, strict=True):
        assert torch.equal(a, b)
    assert [path.name for path in tmp_path.iterdir()] == ["s.safetensors"]


def test_before_the_first_step_there_are_no_moments(base: BaseModel, tmp_path: Path) -> None:
    trainer = Trainer(base, QUICK, SEED, 10)
    save_state(tmp_path / "s.safetensors", trainer, State(Position(TASK), Kept()))

    found = load_state(tmp_path / "s.safetensors", trainer, TASK)

    assert found == State(Position(TASK), Kept())
    assert found.position.best_loss == float("inf")
    assert not trainer.optimiser.state


def test_without_a_file_a_run_begins(base: BaseModel, tmp_path: Path) -> None:
    trainer = Trainer(base, QUICK, SEED, 10)

    assert load_state(tmp_path / "none", trainer, TASK) == State(Position(TASK), Kept())


def test_the_state_of_another_run_is_refused(base: BaseModel, tmp_path: Path) -> None:
    trainer = Trainer(base, QUICK, SEED, 10)
    save_state(tmp_path / "s.safetensors", trainer, State(Position(Digest("b" * 64)), Kept()))

    with pytest.raises(ConflictError, match="another run"):
        load_state(tmp_path / "s.safetensors", trainer, TASK)


def test_a_damaged_file_is_named(base: BaseModel, tmp_path: Path) -> None:
    (tmp_path / "s.safetensors").write_bytes(b"short")

    with pytest.raises(InvalidInputError, match="delete it to train again"):
        load_state(tmp_path / "s.safetensors", Trainer(base, QUICK, SEED, 10), TASK)
