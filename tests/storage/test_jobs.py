import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from openledger.core.errors import ConflictError, NotFoundError
from openledger.storage import jobs
from openledger.storage.database import Database
from openledger.storage.jobs import Job, JobState, NewJob
from tests.storage.rows import QuickDatabase

LEASE, NOW = 100, 10_000_000


def _new(key: str = "one", attempts: int = 3, kind: str = "attribute") -> NewJob:
    return NewJob(kind, key, b"payload", attempts)


def test_a_key_names_one_job_for_ever(database: Database) -> None:
    with database.transaction() as transaction:
        first = jobs.enqueue(transaction, _new(), now=1)
        again = jobs.enqueue(transaction, _new(), now=2)
        other_kind = jobs.enqueue(transaction, _new(kind="settle"), now=3)

        assert again == first == jobs.find(transaction, "attribute", "one")
        assert other_kind.id != first.id
        with pytest.raises(ConflictError, match="another payload"):
            jobs.enqueue(transaction, NewJob("attribute", "one", b"else"), now=4)
        assert jobs.find(transaction, "attribute", "two") is None


def test_a_job_of_a_failed_transaction_never_was(database: Database) -> None:
    def fail() -> None:
        with database.transaction() as transaction:
            jobs.enqueue(transaction, _new(), now=1)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with database.transaction() as transaction:
        assert jobs.claim(transaction, ["attribute"], 2, LEASE) is None


def test_jobs_come_in_the_order_in_which_they_are_due(database: Database) -> None:
    with database.transaction() as transaction:
        jobs.enqueue(transaction, _new("late"), now=1, run_at=50)
        jobs.enqueue(transaction, _new("soon"), now=2, run_at=20)
        jobs.enqueue(transaction, _new("other", kind="settle"), now=3)
        kinds = ["attribute"]

        assert jobs.claim(transaction, kinds, 19, LEASE) is None
        soon = jobs.claim(transaction, kinds, 60, LEASE)
        late = jobs.claim(transaction, kinds, 60, LEASE)
        assert soon is not None
        assert late is not None
        assert (soon.key, late.key) == ("soon", "late")
        assert (soon.state, soon.attempt, soon.fencing) == (JobState.RUNNING, 1, 1)
        assert jobs.claim(transaction, kinds, 60, LEASE) is None


def _claimed(database: Database, now: int) -> Job:
    with database.transaction() as transaction:
        job = jobs.claim(transaction, ["attribute"], now, LEASE)
    assert job is not None
    return job


def test_jobs_that_were_never_tried_are_taken_together(database: Database) -> None:
    with database.transaction() as transaction:
        for place, key in enumerate("abcd"):
            jobs.enqueue(transaction, jobs.NewJob("score", key, b""), NOW, NOW + place)
        jobs.enqueue(transaction, jobs.NewJob("other", "e", b""), NOW)
        tried = jobs.claim(transaction, ["score"], NOW, LEASE)
        assert tried is not None
        jobs.fail(transaction, tried, "no", NOW - jobs.delay(1))
        taken = jobs.claim_fresh(transaction, "score", NOW + 2, LEASE, 5)
        rest = jobs.claim_fresh(transaction, "score", NOW + 3, LEASE, 0)

    assert [(job.key, job.state, job.attempt) for job in taken] == [
        ("b", JobState.RUNNING, 1),
        ("c", JobState.RUNNING, 1),
    ]
    assert rest == []


def test_a_done_job_keeps_its_result(database: Database) -> None:
    with database.transaction() as transaction:
        jobs.enqueue(transaction, _new(), now=1)
    job = _claimed(database, 2)
    with database.transaction() as transaction:
        jobs.complete(transaction, job, now=3, result=b"done")

        assert jobs.get(transaction, job.id).result == b"done"
        assert jobs.claim(transaction, ["attribute"], 10**9, LEASE) is None
        with pytest.raises(ConflictError, match="no longer"):
            jobs.complete(transaction, job, now=4)


def test_a_worker_that_lost_its_lease_is_not_heard(database: Database) -> None:
    with database.transaction() as transaction:
        jobs.enqueue(transaction, _new(), now=1)
    slow = _claimed(database, 2)
    quick = _claimed(database, 2 + LEASE)
    with database.transaction() as transaction:
        for speak in (
            lambda: jobs.complete(transaction, slow, 105),
            lambda: jobs.fail(transaction, slow, "late", 105),
            lambda: jobs.heartbeat(transaction, slow, 105, LEASE),
        ):
            with pytest.raises(ConflictError, match="no longer"):
                speak()
        jobs.complete(transaction, quick, 106)

        assert jobs.get(transaction, quick.id).attempt == 2


def test_a_heartbeat_holds_the_job(database: Database) -> None:
    with database.transaction() as transaction:
        jobs.enqueue(transaction, _new(), now=1)
    job = _claimed(database, 2)
    with database.transaction() as transaction:
        jobs.heartbeat(transaction, job, 100, LEASE)

        assert jobs.claim(transaction, ["attribute"], 199, LEASE) is None
        assert jobs.claim(transaction, ["attribute"], 200, LEASE) is not None


def test_a_failed_job_waits_longer_each_time_and_dies(database: Database) -> None:
    with database.transaction() as transaction:
        jobs.enqueue(transaction, _new(attempts=2), now=0)
    with database.transaction() as transaction:
        job = jobs.claim(transaction, ["attribute"], 0, LEASE)
        assert job is not None
        failed = jobs.fail(transaction, job, "chain is down", now=10)

        assert (failed.state, failed.error) == (JobState.QUEUED, "chain is down")
        assert failed.run_at == 10 + jobs.delay(1)
        again = jobs.claim(transaction, ["attribute"], failed.run_at, LEASE)
        assert again is not None
        dead = jobs.fail(transaction, again, "still down", now=failed.run_at)
        assert dead.state is JobState.DEAD
        assert jobs.in_state(transaction, JobState.DEAD) == [dead]
        assert jobs.claim(transaction, ["attribute"], 10**12, LEASE) is None


def test_what_no_retry_will_mend_dies_at_once(database: Database) -> None:
    with database.transaction() as transaction:
        jobs.enqueue(transaction, _new(), now=1)
        job = jobs.claim(transaction, ["attribute"], 2, LEASE)
        assert job is not None

        assert jobs.fail(transaction, job, "bad", now=3, is_final=True).state is JobState.DEAD


def test_a_job_whose_workers_all_vanish_dies(database: Database) -> None:
    with database.transaction() as transaction:
        job = jobs.enqueue(transaction, _new(attempts=1), now=1)
        assert jobs.claim(transaction, ["attribute"], 2, LEASE) is not None

        assert jobs.claim(transaction, ["attribute"], 500, LEASE) is None
        assert jobs.get(transaction, job.id).state is JobState.DEAD


def test_a_dead_job_can_be_revived(database: Database) -> None:
    with database.transaction() as transaction:
        job = jobs.enqueue(transaction, _new(attempts=1), now=1)
        with pytest.raises(ConflictError, match="not dead"):
            jobs.revive(transaction, job.id, 2)
        claimed = jobs.claim(transaction, ["attribute"], 2, LEASE)
        assert claimed is not None
        jobs.fail(transaction, claimed, "bad", 3)

        revived = jobs.revive(transaction, job.id, 4)
        assert (revived.state, revived.attempt) == (JobState.QUEUED, 0)
        assert jobs.claim(transaction, ["attribute"], 4, LEASE) is not None


def test_an_unknown_job_is_said_to_be_unknown(database: Database) -> None:
    with database.read() as transaction, pytest.raises(NotFoundError):
        jobs.get(transaction, "none")


def test_the_wait_is_bounded() -> None:
    waits = [jobs.delay(attempt) for attempt in range(200)]

    assert waits == sorted(waits)
    assert waits[:4] == [1_000_000, 1_000_000, 2_000_000, 4_000_000]
    assert waits[-1] == 600_000_000


class JobMachine(RuleBasedStateMachine):
    """Workers claim, stall, die and speak late; each job's effect happens at most once."""

    def __init__(self) -> None:
        super().__init__()
        self.database = QuickDatabase()
        self.now = 0
        self.keys = 0
        self.claims: list[Job] = []
        self.newest: dict[str, int] = {}  # job -> fencing token of its last claim
        self.effects: dict[str, int] = {}

    def teardown(self) -> None:
        self.database.close()

    @rule()
    def enqueue(self) -> None:
        with self.database.transaction() as transaction:
            jobs.enqueue(transaction, _new(str(self.keys)), self.now)
        self.keys += 1

    @precondition(lambda self: self.keys)
    @rule(choice=st.integers(0, 99))
    def enqueue_again(self, choice: int) -> None:
        with self.database.transaction() as transaction:
            jobs.enqueue(transaction, _new(str(choice % self.keys)), self.now)

    @rule()
    def claim(self) -> None:
        with self.database.transaction() as transaction:
            job = jobs.claim(transaction, ["attribute"], self.now, LEASE)
        if job is not None:
            assert job.fencing > self.newest.get(job.id, 0)
            self.newest[job.id] = job.fencing
            self.claims.append(job)

    @rule(time=st.sampled_from([1, LEASE - 1, LEASE, 700_000_000]))
    def wait(self, time: int) -> None:
        self.now += time

    @precondition(lambda self: self.claims)
    @rule(choice=st.integers(0, 99), word=st.sampled_from(["complete", "fail", "heartbeat"]))
    def speak(self, choice: int, word: str) -> None:
        job = self.claims[choice % len(self.claims)]
        is_newest = self.newest[job.id] == job.fencing
        try:
            with self.database.transaction() as transaction:
                if word == "complete":
                    jobs.complete(transaction, job, self.now)
                    self.effects[job.id] = self.effects.get(job.id, 0) + 1
                elif word == "fail":
                    jobs.fail(transaction, job, "failed", self.now)
                else:
                    jobs.heartbeat(transaction, job, self.now, LEASE)
        except ConflictError:
            return
        assert is_newest, "a worker that lost its lease was heard"

    @invariant()
    def no_effect_happens_twice(self) -> None:
        assert all(times == 1 for times in self.effects.values())

    @invariant()
    def no_job_is_lost_or_made_twice(self) -> None:
        with self.database.read() as transaction:
            stored = [job for state in JobState for job in jobs.in_state(transaction, state)]
        assert len(stored) == self.keys
        done = {job.id for job in stored if job.state is JobState.DONE}
        assert done == set(self.effects)
        assert all(job.attempt <= job.max_attempts for job in stored)


JobMachine.TestCase.settings = settings(max_examples=16, stateful_step_count=20, deadline=None)
TestJobs = JobMachine.TestCase
