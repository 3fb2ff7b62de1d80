"""What goes into a training run, what it tells while it runs, and what comes out."""

from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

import msgspec

from openledger.core.encoding import encode
from openledger.core.errors import InvalidInputError
from openledger.core.merkle import root
from openledger.core.types import Digest
from openledger.lm.lora import Adapter
from openledger.training.evaluate import Measured
from openledger.training.recipe import Recipe
from openledger.training.rows import Example, Row

SEED_BYTES = 32


class TrainingRow(msgspec.Struct, frozen=True):
    """One leaf of the ordered training manifest."""

    contribution: int  # its number on chain
    position: int  # of the chunk in the contribution
    chunk: Digest


class TrainingManifest(msgspec.Struct, frozen=True):
    """Every row that a run may train on or hold out, in order."""

    rows: tuple[TrainingRow, ...]

    @property
    def root(self) -> Digest:
        """The Merkle root over the rows, which stands on chain before the run's seed does."""
        return root([encode(row) for row in self.rows])


class Task(msgspec.Struct, frozen=True):
    """Everything that decides what a run makes of a base model."""

    recipe: Recipe
    seed: bytes
    training: tuple[Example, ...]  # in the order of the training manifest
    held_out: tuple[Example, ...]

    def __post_init__(self) -> None:
        if len(self.seed) != SEED_BYTES:
            raise InvalidInputError(f"a seed has {SEED_BYTES} bytes, not {len(self.seed)}")


class Stage(StrEnum):
    """What a run is at."""

    READING = "reading"  # rows through the frozen lower layers
    TRAINING = "training"  # optimiser steps
    MEASURING = "measuring"  # held-out rows, with the base, then with the adapter


class Progress(msgspec.Struct, frozen=True):
    """What a person waiting for a run wants to know."""

    stage: Stage
    done: int  # rows or steps of this stage
    total: int
    loss: float | None = None  # nats per token of the last step
    held_out_loss: float | None = None  # of the last probe
    tokens_per_s: float | None = None  # predicted tokens trained on
    seconds_left: float | None = None  # of this stage


class Step(msgspec.Struct, frozen=True):
    """One optimiser step, seen before anchors add to it and the adapter moves."""

    number: int  # from 0
    rows: tuple[Row, ...]
    loss: float  # nats per token
    adapter: Adapter  # live: its factors' `grad` is the gradient of this loss; do not keep it


class StepObserver(Protocol):
    """Whoever wants to gather something while an adapter is trained."""

    def observe(self, step: Step) -> None: ...


class Watch(msgspec.Struct, frozen=True):
    """Who is told about a run, and how often its state is saved."""

    progress: Callable[[Progress], None] | None = None
    observer: StepObserver | None = None
    save_every: int = 10  # steps

    def tell(self, progress: Progress) -> None:
        """Pass it on to whoever listens."""
        if self.progress is not None:
            self.progress(progress)


class FineTuned(msgspec.Struct, frozen=True):
    """The outcome of a run."""

    adapter: Adapter  # at the lowest probe
    early: Adapter  # after a quarter of the steps, for attribution
    base: Measured  # the base alone on all held-out tokens
    tuned: Measured  # with the adapter, on the same tokens
    steps: int
    steps_planned: int
    tokens: int  # predicted in training, over all epochs

    @property
    def stopped_early(self) -> bool:
        """Whether the held-out loss stopped falling before the planned end."""
        return self.steps < self.steps_planned
