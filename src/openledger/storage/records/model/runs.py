"""Training runs: begun on chain before they train, resumable, numbered by the chain."""

from enum import StrEnum

import msgspec
from sqlalchemy import select

from openledger.core.errors import ConflictError
from openledger.core.types import Account, Digest
from openledger.storage.database import Transaction
from openledger.storage.records.rows import every, held, insert_new, one, row_id, values_of
from openledger.storage.tables import training_runs

TRAIN_JOB = "train"  # the kind of the job that trains a run; its key is the run's row id


class RunState(StrEnum):
    """Where a run stands; the last three are final, but a failed one may begin to train again."""

    QUEUED = "queued"
    BEGUN = "begun"  # on chain, with its seed
    TRAINING = "training"
    TRAINED = "trained"
    FAILED = "failed"
    CANCELLED = "cancelled"


_NEXT = {
    RunState.QUEUED: {RunState.BEGUN, RunState.FAILED, RunState.CANCELLED},
    RunState.BEGUN: {RunState.TRAINING, RunState.FAILED, RunState.CANCELLED},
    RunState.TRAINING: {RunState.TRAINED, RunState.FAILED, RunState.CANCELLED},
    RunState.FAILED: {RunState.QUEUED, RunState.TRAINING, RunState.CANCELLED},
    RunState.TRAINED: set[RunState](),
    RunState.CANCELLED: set[RunState](),
}


class NewRun(msgspec.Struct, frozen=True):
    """A run to start; `op` names it here and on chain."""

    op: Digest
    builder: Account
    name: str
    recipe: bytes  # canonical
    versions: bytes  # canonical bytes of the Datanet versions
    manifest_root: Digest
    manifest_size: int


class Run(NewRun, frozen=True):
    """A stored run; `number` is its id on chain."""

    id: str
    state: RunState
    number: int | None
    seed: Digest | None
    step: int
    steps: int
    seconds_left: int | None
    metrics: bytes | None  # JSON
    adapter: Digest | None
    error: str | None
    created_at: int
    updated_at: int


class Progress(msgspec.Struct, frozen=True):
    """How far training has come; floats are allowed in `metrics`, which nobody signs."""

    step: int
    steps: int
    seconds_left: int | None
    metrics: bytes | None  # JSON


def create(transaction: Transaction, new: NewRun, now: int) -> Run:
    """Store a run as queued, or find the same one.

    Raises:
        ConflictError: the operation names another run.
    """
    row = values_of(new) | {
        "id": row_id(now),
        "state": RunState.QUEUED.value,
        "step": 0,
        "steps": 0,
        "created_at": now,
        "updated_at": now,
    }
    insert_new(transaction, training_runs, [row])
    stored = by_op(transaction, new.op)
    if values_of(stored) | values_of(new) != values_of(stored):
        raise ConflictError(f"the operation {new.op} names another run: {stored.id}")
    return stored


def get(transaction: Transaction, run_id: str) -> Run:
    """The run of this row id, held for this transaction.

    Raises:
        NotFoundError: none.
    """
    query = select(training_runs).where(training_runs.c.id == run_id)
    return one(transaction, held(transaction, query), Run, f"run {run_id}")


def by_op(transaction: Transaction, op: Digest) -> Run:
    """The run of this operation.

    Raises:
        NotFoundError: none.
    """
    query = select(training_runs).where(training_runs.c.op == op)
    return one(transaction, query, Run, f"run of the operation {op}")


def list_all(transaction: Transaction, builder: Account | None = None) -> list[Run]:
    """Runs, the newest first."""
    query = select(training_runs)
    if builder is not None:
        query = query.where(training_runs.c.builder == builder)
    ordered = query.order_by(training_runs.c.created_at.desc(), training_runs.c.id.desc())
    return every(transaction, ordered, Run)


def begin(transaction: Transaction, run_id: str, number: int, seed: Digest, now: int) -> Run:
    """Note the run's id and seed on chain; from then on it may train.

    Raises:
        ConflictError: it has others, or is cancelled.
    """
    found = get(transaction, run_id)
    if found.number is not None and (found.number, found.seed) != (number, seed):
        raise ConflictError(f"the run {run_id} is number {found.number} with seed {found.seed}")
    if found.number is None:
        _change(transaction, run_id, now, number=number, seed=seed)
        return advance(transaction, run_id, RunState.BEGUN, now)
    return found


def advance(
    transaction: Transaction, run_id: str, state: RunState, now: int, *, error: str | None = None
) -> Run:
    """Move a run to a next state; one that is there already stays as it is.

    Raises:
        ConflictError: no way leads there from its present state.
    """
    found = get(transaction, run_id)
    if found.state is state:
        return found
    if state not in _NEXT[found.state]:
        raise ConflictError(f"the run {run_id} is {found.state.value}, it cannot be {state.value}")
    _change(transaction, run_id, now, state=state.value, error=error)
    return get(transaction, run_id)


def report(transaction: Transaction, run_id: str, progress: Progress, now: int) -> None:
    """Store how far training has come; check the worker's lease in the same transaction.

    Raises:
        ConflictError: the run does not train.
    """
    found = get(transaction, run_id)
    if found.state is not RunState.TRAINING:
        raise ConflictError(f"the run {run_id} is {found.state.value}, it does not train")
    _change(transaction, run_id, now, **values_of(progress))


def finish(transaction: Transaction, run_id: str, adapter: Digest, metrics: bytes, now: int) -> Run:
    """Store the adapter that came out; final.

    Raises:
        ConflictError: another adapter came out before, or the run does not train.
    """
    found = get(transaction, run_id)
    if found.adapter is not None and found.adapter != adapter:
        raise ConflictError(f"the run {run_id} made the adapter {found.adapter} already")
    if found.state is RunState.TRAINED:
        return found
    _change(transaction, run_id, now, adapter=adapter, metrics=metrics, seconds_left=0)
    return advance(transaction, run_id, RunState.TRAINED, now)


def _change(transaction: Transaction, run_id: str, now: int, **values: object) -> None:
    change = training_runs.update().where(training_runs.c.id == run_id)
    transaction.connection.execute(change.values(updated_at=now, **values))
