"""Where a training run stands, in one file that is replaced whole: a kill loses a few steps only.

The file holds the adapter, the optimiser's moments, the best adapter so far and the one at a
quarter of the run. What the next batch is follows from the seed and the step, so no random state
is needed, and a resumed run ends in the same bits as one that was never stopped.
"""

import os
from pathlib import Path

import msgspec
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from openledger.core.errors import ConflictError, InvalidInputError
from openledger.core.types import Digest
from openledger.lm.checkpoint import pairs_of, tensors_of
from openledger.lm.lora import Adapter
from openledger.training.evaluate import Measured
from openledger.training.steps.trainer import Trainer


class Probe(msgspec.Struct, frozen=True):
    """The held-out loss during a run, on the same few rows each time."""

    step: int  # steps done
    loss: float  # nats per token


class Position(msgspec.Struct, frozen=True):
    """How far a run is."""

    task: Digest  # of everything that decides the run
    step: int = 0  # steps done
    tokens: int = 0  # predicted so far
    base: Measured | None = None  # the base alone on all held-out tokens
    probes: tuple[Probe, ...] = ()
    strikes: int = 0  # probes without a gain since the best one

    @property
    def best_loss(self) -> float:
        """The lowest probe so far."""
        return min((probe.loss for probe in self.probes), default=float("inf"))


class Kept(msgspec.Struct, frozen=True):
    """Copies of the adapter made on the way."""

    best: Adapter | None = None  # at the lowest probe
    early: Adapter | None = None  # after a quarter of the steps


class State(msgspec.Struct, frozen=True):
    """All of a run that is not in the trainer."""

    position: Position
    kept: Kept


def save_state(path: Path, trainer: Trainer, state: State) -> None:
    """Write the run's state; the file of before stands until the new one is safe."""
    tensors = _prefixed("now", trainer.adapter)
    for name, adapter in (("best", state.kept.best), ("early", state.kept.early)):
        if adapter is not None:
            tensors |= _prefixed(name, adapter)
    for i, parameter in enumerate(trainer.parameters):
        moments = trainer.optimiser.state.get(parameter, {})
        tensors |= {f"{key}/{i}": moments[key] for key in _MOMENTS if key in moments}
    scratch = path.with_suffix(".part")
    metadata = {"position": msgspec.json.encode(state.position).decode()}
    save_file(tensors, scratch, metadata=metadata)
    with scratch.open("rb") as stream:
        os.fsync(stream.fileno())
    scratch.replace(path)


def load_state(path: Path, trainer: Trainer, task: Digest) -> State:
    """Bring the trainer to where the file left it; without a file, to the beginning.

    Raises:
        ConflictError: the file belongs to another run.
        InvalidInputError: the file is damaged.
    """
    if not path.exists():
        return State(Position(task), Kept())
    try:
        with safe_open(path, "pt") as stream:
            position = msgspec.json.decode(stream.metadata()["position"], type=Position)
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError, msgspec.MsgspecError) as error:
        raise InvalidInputError(f"{path} is damaged; delete it to train again: {error}") from error
    if position.task != task:
        raise ConflictError(f"{path} belongs to another run: {position.task}, not {task}")
    _restore(trainer, tensors)
    kept = Kept(_stored(tensors, "best", trainer), _stored(tensors, "early", trainer))
    return State(position, kept)


_MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # AdamW's, as torch names them


def _prefixed(name: str, adapter: Adapter) -> dict[str, Tensor]:
    return {f"{name}/{key}": tensor for key, tensor in tensors_of(adapter).items()}


def _stored(tensors: dict[str, Tensor], name: str, trainer: Trainer) -> Adapter | None:
    prefix = name + "/"
    found = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    if not found:
        return None
    shape = trainer.adapter.shape
    return Adapter(shape, trainer.adapter.base, pairs_of(found, shape))


def _restore(trainer: Trainer, tensors: dict[str, Tensor]) -> None:
    now = _stored(tensors, "now", trainer)
    assert now is not None
    trainer.become(now)
    for i, parameter in enumerate(trainer.parameters):
        moments = {k: tensors[f"{k}/{i}"] for k in _MOMENTS if f"{k}/{i}" in tensors}
        if moments:
            trainer.optimiser.state[parameter] = moments
