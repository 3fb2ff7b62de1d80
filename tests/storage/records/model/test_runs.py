import msgspec
import pytest

from openledger.core.errors import ConflictError, NotFoundError
from openledger.storage.database import Database, Transaction
from openledger.storage.records.model import runs
from openledger.storage.records.model.runs import NewRun, Progress, Run, RunState
from tests.storage.rows import GATEWAY, PAYER, digest_of

NEW = NewRun(digest_of(1), PAYER, "tunes", b"recipe", b"versions", digest_of(2), 40)
SEED = digest_of(77)


def _training(transaction: Transaction) -> Run:
    made = runs.create(transaction, NEW, 1)
    runs.begin(transaction, made.id, 3, SEED, 2)
    return runs.advance(transaction, made.id, RunState.TRAINING, 3)


def test_an_operation_names_one_run(database: Database) -> None:
    with database.transaction() as transaction:
        made = runs.create(transaction, NEW, 1)

        assert runs.create(transaction, NEW, 2) == made == runs.by_op(transaction, NEW.op)
        assert made.state is RunState.QUEUED
        with pytest.raises(ConflictError, match="another run"):
            runs.create(transaction, msgspec.structs.replace(NEW, recipe=b"else"), 3)


def test_a_run_trains_and_ends_with_its_adapter(database: Database) -> None:
    with database.transaction() as transaction:
        run = _training(transaction)
        runs.report(transaction, run.id, Progress(5, 10, 30, b'{"loss": 2.5}'), 4)
        half = runs.get(transaction, run.id)
        done = runs.finish(transaction, run.id, digest_of(9), b'{"loss": 2.0}', 5)

        assert (half.step, half.steps, half.seconds_left) == (5, 10, 30)
        assert (done.state, done.adapter, done.seconds_left) == (RunState.TRAINED, digest_of(9), 0)
        assert (done.number, done.seed) == (3, SEED)
        assert runs.finish(transaction, run.id, digest_of(9), b"", 6) == done
        with pytest.raises(ConflictError, match="already"):
            runs.finish(transaction, run.id, digest_of(8), b"", 6)
        with pytest.raises(ConflictError, match="does not train"):
            runs.report(transaction, run.id, Progress(6, 10, 30, None), 7)


def test_a_run_begins_once(database: Database) -> None:
    with database.transaction() as transaction:
        run = _training(transaction)

        assert runs.begin(transaction, run.id, 3, SEED, 9) == run
        with pytest.raises(ConflictError, match="number 3"):
            runs.begin(transaction, run.id, 4, SEED, 9)


def test_a_run_may_not_train_before_it_begins(database: Database) -> None:
    with database.transaction() as transaction:
        made = runs.create(transaction, NEW, 1)

        with pytest.raises(ConflictError, match="queued"):
            runs.advance(transaction, made.id, RunState.TRAINING, 2)


def test_a_failed_run_may_go_on(database: Database) -> None:
    with database.transaction() as transaction:
        run = _training(transaction)
        failed = runs.advance(transaction, run.id, RunState.FAILED, 4, error="no memory")
        again = runs.advance(transaction, run.id, RunState.TRAINING, 5)

        assert (failed.state, failed.error) == (RunState.FAILED, "no memory")
        assert (again.state, again.error) == (RunState.TRAINING, None)
        assert runs.advance(transaction, run.id, RunState.TRAINING, 6) == again


def test_runs_are_listed_newest_first(database: Database) -> None:
    with database.transaction() as transaction:
        old = runs.create(transaction, NEW, 1)
        new = runs.create(transaction, msgspec.structs.replace(NEW, op=digest_of(5)), 2)

        assert runs.list_all(transaction) == [new, old]
        assert runs.list_all(transaction, PAYER) == [new, old]
        assert runs.list_all(transaction, GATEWAY) == []


def test_an_unknown_run_is_said_to_be_unknown(database: Database) -> None:
    with database.read() as transaction, pytest.raises(NotFoundError):
        runs.get(transaction, "nothing")
