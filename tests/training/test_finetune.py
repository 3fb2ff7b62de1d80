import errno
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch

from openledger.core.errors import ConflictError, InvalidInputError, StoppedError, StorageFullError
from openledger.lm.base import BaseModel
from openledger.lm.lora import Adapter, MixedLinear
from openledger.training.finetune import finetune
from openledger.training.task import FineTuned, Progress, Stage, Step, Task, Watch
from tests.training.songs import QUICK, small_task


def factors(adapter: Adapter) -> list[torch.Tensor]:
    return [f for pair in adapter.pairs.values() for f in (pair.a, pair.b)]


def same(one: FineTuned, other: FineTuned) -> bool:
    pairs = [
        *zip(factors(one.adapter), factors(other.adapter), strict=True),
        *zip(factors(one.early), factors(other.early), strict=True),
    ]
    measured = (one.base, one.tuned, one.tokens) == (other.base, other.tuned, other.tokens)
    return measured and all(torch.equal(a, b) for a, b in pairs)


class Killed(BaseException):
    """Raised where a process would die."""


def test_training_lowers_the_held_out_loss_and_leaves_the_base_plain(
    base: BaseModel, tmp_path: Path
) -> None:
    before = [p.clone() for p in base.model.parameters()]

    found = finetune(base, small_task(), tmp_path)

    assert found.tuned.perplexity < 0.6 * found.base.perplexity
    assert (found.steps, found.steps_planned, found.stopped_early) == (9, 9, False)
    assert not any(isinstance(m, MixedLinear) for m in base.model.modules())
    after = list(base.model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not any(p.requires_grad for p in after)


def test_the_same_task_gives_the_same_bits_and_another_seed_others(
    base: BaseModel, tmp_path: Path
) -> None:
    one = finetune(base, small_task(), tmp_path / "one")

    assert same(one, finetune(base, small_task(), tmp_path / "two"))
    assert not same(one, finetune(base, small_task(seed=bytes(32)), tmp_path / "three"))


@pytest.mark.parametrize("step", range(1, 9))
def test_a_run_stopped_after_any_step_ends_in_the_same_bits(
    base: BaseModel, tmp_path: Path, step: int
) -> None:
    def stop(progress: Progress) -> None:
        if progress.stage is Stage.TRAINING and progress.done == step:
            raise Killed

    whole = finetune(base, small_task(), tmp_path / "whole")
    with pytest.raises(Killed):
        finetune(base, small_task(), tmp_path / "stopped", Watch(stop, save_every=3))

    assert same(whole, finetune(base, small_task(), tmp_path / "stopped"))


def test_a_run_that_is_asked_to_stop_saves_the_step_it_is_at(
    base: BaseModel, tmp_path: Path
) -> None:
    told: list[int] = []

    def stop(progress: Progress) -> None:
        if progress.stage is Stage.TRAINING and progress.done == 4:  # no probe, which saves
            raise StoppedError("the process ends")

    def listen(progress: Progress) -> None:
        if progress.stage is Stage.TRAINING:
            told.append(progress.done)

    whole = finetune(base, small_task(), tmp_path / "whole")
    with pytest.raises(StoppedError):
        finetune(base, small_task(), tmp_path / "stopped", Watch(stop, save_every=100))
    resumed = finetune(base, small_task(), tmp_path / "stopped", Watch(listen))

    assert told[0] == 5
    assert same(whole, resumed)


@pytest.mark.slow
def test_a_killed_process_resumes_to_the_same_bits(
    base: BaseModel, base_folder: Path, tmp_path: Path
) -> None:
    script = Path(__file__).with_name("train_forever.py")
    root = Path(__file__).parents[2]
    command = [sys.executable, str(script), str(base_folder), str(tmp_path / "killed"), "5"]
    environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'src'}"}
    died = subprocess.run(command, env=environment, timeout=100, check=False)

    resumed = finetune(base, small_task(), tmp_path / "killed")

    assert died.returncode == -9
    assert same(resumed, finetune(base, small_task(), tmp_path / "whole"))


def test_a_finished_run_is_not_trained_again(base: BaseModel, tmp_path: Path) -> None:
    steps: list[Progress] = []
    first = finetune(base, small_task(), tmp_path)

    again = finetune(base, small_task(), tmp_path, Watch(steps.append))

    assert same(first, again)
    assert {progress.stage for progress in steps} == {Stage.MEASURING}


def test_progress_tells_stage_loss_speed_and_time_left(base: BaseModel, tmp_path: Path) -> None:
    told: list[Progress] = []
    finetune(base, small_task(), tmp_path, Watch(told.append))

    assert [*dict.fromkeys(p.stage for p in told)] == [
        Stage.READING,
        Stage.MEASURING,
        Stage.TRAINING,
    ]
    steps = [p for p in told if p.stage is Stage.TRAINING]
    assert [p.done for p in steps] == list(range(1, 10))
    assert steps[0].held_out_loss is None
    assert steps[-1].held_out_loss is not None
    assert steps[-1].seconds_left == 0
    assert all(p.loss and p.tokens_per_s and p.tokens_per_s > 0 for p in steps)


def test_an_observer_sees_each_step_with_its_gradients(base: BaseModel, tmp_path: Path) -> None:
    class Notes:
        def __init__(self) -> None:
            self.norms: list[float] = []
            self.rows = 0

        def observe(self, step: Step) -> None:
            gradients = [f.grad for f in factors(step.adapter)]
            self.norms.append(sum(float(g.norm()) for g in gradients if g is not None))
            self.rows += len(step.rows)

    notes = Notes()
    finetune(base, small_task(), tmp_path, Watch(observer=notes))

    assert len(notes.norms) == 9
    assert min(notes.norms) > 0
    assert notes.rows == 30


def test_a_run_that_stops_gaining_ends_early_and_keeps_its_best(
    base: BaseModel, tmp_path: Path
) -> None:
    hot = msgspec.structs.replace(
        QUICK, learning_rate_micro=60_000, epochs=20, evaluations=20, patience=1, alpha=64
    )
    task = small_task(hot)
    unlike = tuple(
        msgspec.structs.replace(e, text="The quick brown fox jumps.") for e in task.held_out
    )

    found = finetune(base, Task(hot, task.seed, task.training, unlike), tmp_path)

    assert found.stopped_early
    assert found.steps < found.steps_planned


def test_a_base_in_another_precision_is_refused(base: BaseModel, tmp_path: Path) -> None:
    recipe = msgspec.structs.replace(QUICK, precision="bfloat16")

    with pytest.raises(InvalidInputError, match="the base is float32"):
        finetune(base, small_task(recipe), tmp_path)


def test_a_folder_of_another_run_is_refused(base: BaseModel, tmp_path: Path) -> None:
    finetune(base, small_task(), tmp_path)

    with pytest.raises(ConflictError, match="another run"):
        finetune(base, small_task(seed=bytes(32)), tmp_path)


def test_a_short_seed_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="32 bytes, not 3"):
        Task(QUICK, b"abc", (), ())


def test_an_adapter_that_ends_in_no_numbers_is_an_error(base: BaseModel, tmp_path: Path) -> None:
    class Spoiler:
        def observe(self, step: Step) -> None:
            if step.number == 7:  # the last one: no further loss would notice
                for factor in factors(step.adapter):
                    factor.grad = torch.full_like(factor, float("nan"))

    with pytest.raises(InvalidInputError, match="diverged"):
        finetune(base, small_task(), tmp_path, Watch(observer=Spoiler()))


@pytest.mark.parametrize(
    ("code", "error"), [(errno.ENOSPC, StorageFullError), (errno.EACCES, PermissionError)]
)
def test_a_full_disk_is_told_from_other_trouble(
    base: BaseModel, tmp_path: Path, code: int, error: type[Exception]
) -> None:
    def fail(progress: Progress) -> None:
        raise OSError(code, os.strerror(code))

    with pytest.raises(error):
        finetune(base, small_task(), tmp_path, Watch(fail))
