"""Jobs: work that must happen, stored in the transaction of the business change that wants it.

A job runs at least once, so handlers are idempotent. A worker claims it for the time of a lease
and shows its fencing token with every later word: one that lost its lease is not heard. Time is
always an argument, in microseconds.
"""

from collections.abc import Sequence
from enum import StrEnum

import msgspec
from sqlalchemy import and_, or_, select

from openledger.core.errors import ConflictError
from openledger.storage.database import Transaction
from openledger.storage.records.rows import every, first, held, insert_new, one, row_id
from openledger.storage.tables import jobs

DEFAULT_ATTEMPTS = 8
NEVER_DIES = 2**62  # attempts
_FIRST_DELAY = 1_000_000
_LONGEST_DELAY = 600_000_000

ATTRIBUTE_JOB = "attribute"  # of a paid call: whose data made its answer


class JobState(StrEnum):
    """Where a job stands; `DEAD` waits for a person."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    DEAD = "dead"


class NewJob(msgspec.Struct, frozen=True):
    """Work to enqueue; `kind` and `key` together are done once for ever."""

    kind: str
    key: str
    payload: bytes
    max_attempts: int = DEFAULT_ATTEMPTS


class Job(msgspec.Struct, frozen=True):
    """A stored job; times are microseconds."""

    id: str
    kind: str
    key: str
    payload: bytes
    state: JobState
    run_at: int
    lease_until: int | None
    fencing: int
    attempt: int
    max_attempts: int
    error: str | None
    result: bytes | None
    created_at: int
    updated_at: int


def enqueue(transaction: Transaction, job: NewJob, now: int, run_at: int | None = None) -> Job:
    """Store a job, or find the one that this key names already.

    Raises:
        ConflictError: the key names a job with another payload.
    """
    row = msgspec.structs.asdict(job) | {
        "id": row_id(now),
        "state": JobState.QUEUED.value,
        "run_at": now if run_at is None else run_at,
        "fencing": 0,
        "attempt": 0,
        "created_at": now,
        "updated_at": now,
    }
    insert_new(transaction, jobs, [row])
    query = select(jobs).where(jobs.c.kind == job.kind, jobs.c.key == job.key)
    stored = one(transaction, query, Job, "job")
    if stored.payload != job.payload:
        raise ConflictError(f"the {job.kind} job {job.key!r} was asked for with another payload")
    return stored


def claim(transaction: Transaction, kinds: Sequence[str], now: int, lease: int) -> Job | None:
    """Take the job that waits longest, for `lease` microseconds; None when nothing is due.

    A job whose worker vanished is due again when its lease ends, or dead after its last attempt.
    """
    while (job := _next_due(transaction, kinds, now)) is not None:
        if job.attempt >= job.max_attempts:
            _store(transaction, job.id, now, state=JobState.DEAD.value, lease_until=None)
            continue
        _take(transaction, job, now, lease)
        return get(transaction, job.id)
    return None


def claim_fresh(transaction: Transaction, kind: str, now: int, lease: int, limit: int) -> list[Job]:
    """Take more jobs of one kind that are due and were never tried, those that wait longest."""
    is_due = and_(jobs.c.state == JobState.QUEUED.value, jobs.c.run_at <= now, jobs.c.attempt == 0)
    query = select(jobs).where(jobs.c.kind == kind, is_due).order_by(jobs.c.run_at, jobs.c.id)
    found = every(transaction, held(transaction, query.limit(limit), skip=True), Job)
    for job in found:
        _take(transaction, job, now, lease)
    return [get(transaction, job.id) for job in found]


def reclaim(transaction: Transaction, kinds: Sequence[str], now: int) -> int:
    """Make running jobs due at once, for a process that knows their workers dead; how many.

    The attempt counts, so that a job which kills its worker ends as dead.
    """
    change = jobs.update().where(
        jobs.c.kind.in_(kinds), jobs.c.state == JobState.RUNNING.value, jobs.c.lease_until > now
    )
    found = transaction.connection.execute(change.values(lease_until=now, updated_at=now))
    return found.rowcount


def heartbeat(transaction: Transaction, job: Job, now: int, lease: int) -> None:
    """Hold the job for `lease` microseconds from now.

    Raises:
        ConflictError: it went to another worker.
    """
    check(transaction, job)
    _store(transaction, job.id, now, lease_until=now + lease)


def complete(transaction: Transaction, job: Job, now: int, result: bytes | None = None) -> None:
    """Mark it done, in the transaction that stores what it did.

    Raises:
        ConflictError: it went to another worker.
    """
    check(transaction, job)
    done = JobState.DONE.value
    _store(transaction, job.id, now, state=done, lease_until=None, result=result, error=None)


def fail(
    transaction: Transaction, job: Job, error: str, now: int, *, is_final: bool = False
) -> Job:
    """Note what went wrong and try again later, or never after the last attempt.

    Raises:
        ConflictError: it went to another worker.
    """
    check(transaction, job)
    is_dead = is_final or job.attempt >= job.max_attempts
    state = JobState.DEAD if is_dead else JobState.QUEUED
    run_at = now + delay(job.attempt)
    _store(
        transaction, job.id, now, state=state.value, lease_until=None, run_at=run_at, error=error
    )
    return get(transaction, job.id)


def give_back(transaction: Transaction, job: Job, now: int) -> None:
    """Make it due at once for the next worker, as if this one had never claimed it.

    Raises:
        ConflictError: it went to another worker.
    """
    check(transaction, job)
    queued, attempt = JobState.QUEUED.value, job.attempt - 1
    _store(transaction, job.id, now, state=queued, lease_until=None, run_at=now, attempt=attempt)


def delay(attempt: int) -> int:
    """Microseconds to wait after the n-th attempt (from 1): doubled each time, 10 min at most."""
    doublings = min(max(attempt - 1, 0), _LONGEST_DELAY.bit_length())
    return min(_FIRST_DELAY << doublings, _LONGEST_DELAY)


def check(transaction: Transaction, job: Job) -> None:
    """Check that the job is still this worker's; call it beside any write it guards.

    Raises:
        ConflictError: it went to another worker, or is over.
    """
    query = select(jobs).where(jobs.c.id == job.id)
    found = first(transaction, held(transaction, query), Job)
    if found is None or found.fencing != job.fencing or found.state is not JobState.RUNNING:
        raise ConflictError(f"the {job.kind} job {job.id} is no longer this worker's")


def revive(transaction: Transaction, job_id: str, now: int) -> Job:
    """Queue a dead job again, with all its attempts.

    Raises:
        NotFoundError: no such job.
        ConflictError: it is not dead.
    """
    job = get(transaction, job_id)
    if job.state is not JobState.DEAD:
        raise ConflictError(f"the {job.kind} job {job_id} is {job.state.value}, not dead")
    _store(transaction, job_id, now, state=JobState.QUEUED.value, attempt=0, run_at=now)
    return get(transaction, job_id)


def get(transaction: Transaction, job_id: str) -> Job:
    """Look at one job.

    Raises:
        NotFoundError: no such job.
    """
    return one(transaction, select(jobs).where(jobs.c.id == job_id), Job, f"job {job_id}")


def find(transaction: Transaction, kind: str, key: str) -> Job | None:
    """The job of this idempotency key."""
    query = select(jobs).where(jobs.c.kind == kind, jobs.c.key == key)
    return first(transaction, query, Job)


def in_state(transaction: Transaction, state: JobState, limit: int = 100) -> list[Job]:
    """Jobs in one state, the one that waits longest first."""
    query = select(jobs).where(jobs.c.state == state.value)
    ordered = query.order_by(jobs.c.run_at, jobs.c.id).limit(limit)
    return every(transaction, ordered, Job)


def _next_due(transaction: Transaction, kinds: Sequence[str], now: int) -> Job | None:
    is_due = or_(
        and_(jobs.c.state == JobState.QUEUED.value, jobs.c.run_at <= now),
        and_(jobs.c.state == JobState.RUNNING.value, jobs.c.lease_until <= now),
    )
    query = select(jobs).where(jobs.c.kind.in_(kinds), is_due)
    ordered = query.order_by(jobs.c.run_at, jobs.c.id)
    return first(transaction, held(transaction, ordered, skip=True), Job)


def _take(transaction: Transaction, job: Job, now: int, lease: int) -> None:
    _store(
        transaction,
        job.id,
        now,
        state=JobState.RUNNING.value,
        lease_until=now + lease,
        fencing=job.fencing + 1,
        attempt=job.attempt + 1,
    )


def _store(transaction: Transaction, job_id: str, now: int, **values: object) -> None:
    change = jobs.update().where(jobs.c.id == job_id)
    transaction.connection.execute(change.values(updated_at=now, **values))
