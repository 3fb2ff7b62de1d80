import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from openledger.core.errors import ChainUnavailableError, StoppedError, UnavailableError
from openledger.storage import jobs, schema
from openledger.storage.database import Database
from openledger.storage.jobs import Job, JobState
from openledger.worker import Handler, Worker

NOW = 1_000_000_000


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(tmp_path / "openledger.db")
    schema.upgrade(made)
    yield made
    made.close()


def enqueue(database: Database, *keys: str, kind: str = "greet") -> None:
    with database.transaction() as transaction:
        for place, key in enumerate(keys):
            jobs.enqueue(transaction, jobs.NewJob(kind, key, b""), NOW, NOW - len(keys) + place)


def found(database: Database, key: str) -> Job:
    with database.read() as transaction:
        job = jobs.find(transaction, "greet", key)
    assert job is not None
    return job


def noted(seen: list[str]) -> Handler:
    """A handler that notes the keys of its jobs."""
    return lambda taken: seen.extend(job.key for job in taken)


def nothing() -> None:
    """No chores."""


def test_jobs_run_once_each_in_their_order(database: Database) -> None:
    seen: list[str] = []
    enqueue(database, "a", "b")
    enqueue(database, "c", kind="other")
    worker = Worker(
        database, {"greet": lambda taken: seen.extend(job.key for job in taken)}, nothing, Clock()
    )

    assert worker.drain() == 2
    assert seen == ["a", "b"]
    assert not worker.run_once()
    assert found(database, "a").state is JobState.DONE


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (UnavailableError("the chain is down"), "the chain is down"),
        (RuntimeError("a bug"), "a bug"),
        (KeyError(), "KeyError"),
    ],
)
def test_a_job_that_fails_is_tried_again_later(
    database: Database, error: Exception, why: str
) -> None:
    clock = Clock()
    failures = [error]

    def greet(_: Sequence[Job]) -> None:
        if failures:
            raise failures.pop()

    enqueue(database, "a")
    worker = Worker(database, {"greet": greet}, nothing, clock)
    first = worker.drain()
    failed = found(database, "a")
    clock.now += jobs.delay(1)

    assert (first, failed.state, failed.error) == (1, JobState.QUEUED, why)
    assert worker.drain() == 1
    assert found(database, "a").state is JobState.DONE


def test_a_dead_processes_job_is_due_at_once_when_it_is_reclaimed(database: Database) -> None:
    seen: list[str] = []
    enqueue(database, "a")
    with database.transaction() as transaction:
        jobs.claim(transaction, ["greet"], NOW, 600_000_000)
    worker = Worker(
        database, {"greet": lambda taken: seen.extend(job.key for job in taken)}, nothing, Clock()
    )
    before = worker.drain()
    with database.transaction() as transaction:
        reclaimed = jobs.reclaim(transaction, ["greet"], NOW)

    assert (before, reclaimed) == (0, 1)
    assert worker.drain() == 1
    assert seen == ["a"]


def test_the_thread_outlives_chores_that_break(database: Database) -> None:
    done = threading.Event()
    stumbles = iter([OSError(28, "No space left on device")])

    def chores() -> None:
        for error in stumbles:
            raise error

    enqueue(database, "a")
    worker = Worker(database, {"greet": lambda _: done.set()}, chores, Clock())
    worker.start()

    assert done.wait(20)
    worker.stop()
    assert not worker.run_once()


@pytest.mark.parametrize(
    "error", [ChainUnavailableError("the chain is down"), RuntimeError("a bug")]
)
def test_jobs_run_while_every_chore_fails(database: Database, error: Exception) -> None:
    done = threading.Event()

    def chores() -> None:
        raise error

    enqueue(database, "a")
    worker = Worker(database, {"greet": lambda _: done.set()}, chores, Clock())
    worker.start()

    assert done.wait(20)
    worker.stop()


def test_a_job_that_makes_way_is_due_at_once_and_its_attempt_does_not_count(
    database: Database,
) -> None:
    began = threading.Event()

    def greet(_: Sequence[Job]) -> None:
        began.set()
        while not worker.is_stopping():
            time.sleep(0.01)
        raise StoppedError("the process ends")

    enqueue(database, "a")
    worker = Worker(database, {"greet": greet}, nothing, Clock())
    worker.start()
    assert began.wait(20)
    worker.stop()
    left = found(database, "a")

    assert (left.state, left.attempt, left.error) == (JobState.QUEUED, 0, None)
    assert worker.drain() == 0  # it does not take up again what made way
    assert Worker(database, {"greet": lambda _: None}, nothing, Clock()).drain() == 1


def test_a_worker_that_never_ran_stops(database: Database) -> None:
    Worker(database, {}, nothing, Clock()).stop()
