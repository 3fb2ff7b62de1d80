import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from openledger.core.errors import ChainUnavailableError, StoppedError, UnavailableError
from openledger.storage import jobs, schema
from openledger.storage.database import Database
from openledger.storage.jobs import Job, JobState
from openledger.worker import MOST_TOGETHER, Handler, Worker

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


def test_jobs_of_one_kind_are_handled_together_and_after_a_failure_each_alone(
    database: Database,
) -> None:
    clock, seen = Clock(), list[list[str]]()

    def greet(taken: Sequence[Job]) -> None:
        seen.append([job.key for job in taken])
        if "b" in seen[-1]:
            raise UnavailableError("b is bad")

    enqueue(database, *"abc")
    worker = Worker(database, {"greet": greet}, nothing, clock, together=["greet"])
    worker.drain()
    first = [found(database, key).state for key in "abc"]
    clock.now += jobs.delay(1)
    worker.drain()

    assert seen[0] == ["a", "b", "c"]
    assert sorted(seen[1:]) == [["a"], ["b"], ["c"]]
    assert first == [JobState.QUEUED] * 3
    assert [found(database, key).state for key in "abc"] == [
        JobState.DONE,
        JobState.QUEUED,
        JobState.DONE,
    ]
    assert found(database, "b").error == "b is bad"


def test_a_batch_is_bounded(database: Database) -> None:
    seen: list[int] = []
    enqueue(database, *map(str, range(MOST_TOGETHER + 1)))
    handlers: dict[str, Handler] = {"greet": lambda taken: seen.append(len(taken))}

    Worker(database, handlers, nothing, Clock(), together=["greet"]).drain()

    assert seen == [MOST_TOGETHER, 1]


def test_a_long_job_makes_way_for_other_kinds_and_not_for_its_own(database: Database) -> None:
    seen: list[str] = []

    def build(taken: Sequence[Job]) -> None:
        seen.append(f"{taken[0].key} begins")
        worker.make_way()
        worker.make_way()
        seen.append(f"{taken[0].key} ends")

    enqueue(database, "first", "second", kind="build")
    enqueue(database, "a")
    worker = Worker(database, {"greet": noted(seen), "build": build}, nothing, Clock())
    worker.drain()

    assert seen == ["first begins", "a", "first ends", "second begins", "second ends"]


def test_a_long_job_outlives_what_it_makes_way_for(database: Database) -> None:
    seen: list[str] = []

    def greet(_: Sequence[Job]) -> None:
        raise KeyError

    def build(_: Sequence[Job]) -> None:
        worker.make_way()
        broken.append(ChainUnavailableError("no clock today"))
        worker.make_way()
        seen.append("the end")

    broken: list[Exception] = []

    def clock() -> int:
        for error in broken:
            broken.clear()
            raise error
        return NOW

    enqueue(database, "first", kind="build")
    enqueue(database, "a")
    worker = Worker(database, {"greet": greet, "build": build}, nothing, clock)
    worker.drain()

    assert seen == ["the end"]
    assert found(database, "a").error == "KeyError"


def test_a_worker_that_never_ran_stops(database: Database) -> None:
    Worker(database, {}, nothing, Clock()).stop()
