"""Train one adapter from start to end, or from where a stopped or killed run was.

The lower layers' output is computed once per row and kept in the run's folder; training, probes and
the final measurement read it from there. The loss counts the tokens of the documents alone (see
`rows`). Every row is seen equally often; order and initial values come from the seed only. On one
machine with one number of threads the same task gives the same bits, resumed or not.
"""

import math
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from safetensors import SafetensorError

from openledger.core.encoding import digest_of
from openledger.core.errors import InvalidInputError, StoppedError, full_disk
from openledger.core.types import Digest
from openledger.lm.base import BaseModel
from openledger.lm.frozen import HiddenCache, SplitModel, hidden_cache
from openledger.training.evaluate import Measured, first_rows, measure
from openledger.training.recipe import Recipe
from openledger.training.rows import Example, Row, encode_rows
from openledger.training.steps.state import Kept, Probe, State, load_state, save_state
from openledger.training.steps.trainer import Trainer, batches
from openledger.training.task import FineTuned, Progress, Stage, Step, Task, Watch

STATE = "training.safetensors"
EARLY_PART = 4  # a copy is kept after a quarter of the steps


def finetune(base: BaseModel, task: Task, folder: Path, watch: Watch | None = None) -> FineTuned:
    """Train, or go on training, in this run's folder.

    Whoever watches may raise `StoppedError` from `progress`: the state is saved first. The base is
    changed while it runs and given back as it was; nobody else may use it meanwhile.

    Raises:
        InvalidInputError: no text, a base loaded in another precision than the recipe's, or a loss
            that diverges.
        ConflictError: the folder holds another run.
        StorageFullError: the disk is full; free some space and call again.
        StoppedError: the watch asked for it; call again to go on.
    """
    precision = str(next(base.model.parameters()).dtype).removeprefix("torch.")
    if precision != task.recipe.precision:
        raise InvalidInputError(f"the recipe says {task.recipe.precision}, the base is {precision}")
    with full_disk(SafetensorError):
        return _Run(base, task, folder, watch or Watch()).finish()


class _TaskKey(msgspec.Struct, frozen=True):
    """What must be equal for a saved state to be of the same run."""

    recipe: Recipe
    seed: str
    base: Digest
    training: Digest
    held_out: Digest


class _Part:
    """The rows of one part of the data and their cached hidden states."""

    def __init__(self, rows: tuple[Row, ...], cache: HiddenCache, watch: Watch) -> None:
        self.rows = rows
        self.cache = cache
        self._watch = watch

    def measure(self, split: SplitModel) -> Measured:
        def tell(done: int, total: int) -> None:
            self._watch.tell(Progress(Stage.MEASURING, done, total))

        return measure(split, self.cache, self.rows, tell)

    def probe(self, split: SplitModel, tokens: int) -> float:
        return measure(split, self.cache, first_rows(self.rows, tokens)).loss


class _Run:
    def __init__(self, base: BaseModel, task: Task, folder: Path, watch: Watch) -> None:
        self._watch = watch
        self._path = folder / STATE
        self._training = _read(base, task.training, task.recipe, folder, watch)
        self._held_out = _read(base, task.held_out, task.recipe, folder, watch)
        self._batches = batches(
            [len(row.tokens) for row in self._training.rows], task.recipe, task.seed
        )
        self._trainer = Trainer(base, task.recipe, task.seed, len(self._batches))
        key = _TaskKey(
            recipe=task.recipe,
            seed=task.seed.hex(),
            base=base.digest,
            training=self._training.cache.key.rows,
            held_out=self._held_out.cache.key.rows,
        )
        self._state = load_state(self._path, self._trainer, digest_of(key))
        self._pace = _Pace()

    def finish(self) -> FineTuned:
        base = self._measured_base()
        with self._trainer.attached():
            self._train()
            best = self._state.kept.best
            assert best is not None
            self._trainer.become(best)
            tuned = self._held_out.measure(self._trainer.split)
        position = self._state.position
        early = self._state.kept.early or best
        planned = len(self._batches)
        return FineTuned(best, early, base, tuned, position.step, planned, position.tokens)

    def _train(self) -> None:
        try:
            while self._state.position.step < len(self._batches) and not self._is_stale():
                self._step()
        except StoppedError:
            # It is told of a step after that step is counted, so the state is whole.
            save_state(self._path, self._trainer, self._state)
            raise

    def _measured_base(self) -> Measured:
        """The base's loss, measured once even when the run is resumed."""
        if self._state.position.base is None:
            base = self._held_out.measure(self._trainer.split)
            position = msgspec.structs.replace(self._state.position, base=base)
            self._state = State(position, self._state.kept)
            save_state(self._path, self._trainer, self._state)
            return base
        return self._state.position.base

    def _is_stale(self) -> bool:
        return self._state.position.strikes >= self._trainer.recipe.patience

    def _step(self) -> None:
        started = time.monotonic()
        number = self._state.position.step
        places = self._batches[number]
        rows = tuple(self._training.rows[place] for place in places)
        loss = self._trainer.backward(rows, self._training.cache.padded(places))
        if self._watch.observer is not None:
            self._watch.observer.observe(Step(number, rows, loss, self._trainer.adapter))
        self._trainer.hold(number)
        self._trainer.update(number)
        tokens = sum(row.predicted for row in rows)
        self._count(tokens)
        self._pace.add(tokens, time.monotonic() - started)
        self._tell(loss)

    def _count(self, tokens: int) -> None:
        """Note that a step is done; keep copies, probe and save where they fall due."""
        position, kept = self._state.position, self._state.kept
        done, planned = position.step + 1, len(self._batches)
        if done == math.ceil(planned / EARLY_PART):
            kept = Kept(best=kept.best, early=self._trainer.snapshot())
        position = msgspec.structs.replace(position, step=done, tokens=position.tokens + tokens)
        self._state = State(position, kept)
        is_probed = done in _probe_steps(planned, self._trainer.recipe.evaluations)
        if is_probed:
            self._probe()
        if is_probed or done % self._watch.save_every == 0:
            save_state(self._path, self._trainer, self._state)

    def _probe(self) -> None:
        position, kept = self._state.position, self._state.kept
        loss = self._held_out.probe(self._trainer.split, self._trainer.recipe.probe_tokens)
        if not math.isfinite(loss):
            raise InvalidInputError("the training diverged: lower the recipe's learning rate")
        is_best = loss < position.best_loss
        if is_best:
            kept = Kept(best=self._trainer.snapshot(), early=kept.early)
        position = msgspec.structs.replace(
            position,
            probes=(*position.probes, Probe(position.step, loss)),
            strikes=0 if is_best else position.strikes + 1,
        )
        self._state = State(position, kept)

    def _tell(self, loss: float) -> None:
        position, planned = self._state.position, len(self._batches)
        probes = position.probes
        self._watch.tell(
            Progress(
                stage=Stage.TRAINING,
                done=position.step,
                total=planned,
                loss=loss,
                held_out_loss=probes[-1].loss if probes else None,
                tokens_per_s=self._pace.tokens_per_s,
                seconds_left=self._pace.seconds_for(planned - position.step),
            )
        )


class _Pace:
    """How fast this process goes; a resumed run starts measuring anew."""

    def __init__(self) -> None:
        self._steps = self._tokens = 0
        self._seconds = 1e-9

    def add(self, tokens: int, seconds: float) -> None:
        self._steps, self._tokens = self._steps + 1, self._tokens + tokens
        self._seconds += seconds

    @property
    def tokens_per_s(self) -> float:
        return self._tokens / self._seconds

    def seconds_for(self, steps: int) -> float:
        return steps * self._seconds / self._steps


def _read(
    base: BaseModel, examples: Sequence[Example], recipe: Recipe, folder: Path, watch: Watch
) -> _Part:
    def tell(done: int, total: int) -> None:
        watch.tell(Progress(Stage.READING, done, total))

    rows = encode_rows(base.tokenizer, examples, recipe.max_length)
    first = recipe.shape(base.layers).layers[0]
    cache = hidden_cache(folder, base, first, [row.tokens for row in rows], tell)
    return _Part(rows, cache, watch)


def _probe_steps(planned: int, count: int) -> set[int]:
    return {math.ceil(planned * i / count) for i in range(1, count + 1)}
