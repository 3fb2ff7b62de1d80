"""Runs and releases as operations: what is refused, and what goes on."""

import pytest

from openledger.core.errors import InvalidInputError, NotFoundError
from openledger.core.types import Digest
from openledger.operations.models import NewRelease, NewRun, RecipeChoice, WhichRelease, WhichRun
from openledger.storage import jobs
from openledger.storage.jobs import JobState
from openledger.storage.records.model import runs
from openledger.web.operations import models
from openledger.wiring.platform import Platform, now_us
from tests import market as fair


def test_a_run_needs_a_datanet(market: Platform) -> None:
    with pytest.raises(InvalidInputError, match="at least one Datanet"):
        models.start(market, NewRun((), "none", "none"))


def test_a_run_that_is_not_trained_is_not_published(market: Platform) -> None:
    new = runs.NewRun(
        op=Digest("4" * 64),
        builder=fair.operator(market).address,
        name="early",
        recipe=b"{}",
        versions=b"[]",
        manifest_root=Digest("7" * 64),
        manifest_size=12,
    )
    with market.database.transaction() as transaction:
        runs.create(transaction, new, now_us())

    with pytest.raises(InvalidInputError, match="train it first"):
        models.publish(market, NewRelease("early", fair.MODEL))
    with pytest.raises(NotFoundError, match="early"):
        models.publish(market, NewRelease("earli", fair.MODEL))


def test_a_release_of_a_builder_elsewhere_is_not_deprecated_here(market: Platform) -> None:
    with market.database.transaction() as transaction:
        connection = transaction.connection
        connection.exec_driver_sql("UPDATE releases SET builder = '0x" + "1" * 40 + "'")

    with pytest.raises(NotFoundError, match="not an account of this home"):
        models.deprecate(market, WhichRelease(f"{fair.MODEL}@1"))


@pytest.mark.slow
def test_starting_a_run_again_gives_its_dead_training_another_chance(market: Platform) -> None:
    choice = RecipeChoice(epochs=1, rank=2, last_layers=1, learning_rate_micro=1_000)
    new = NewRun((fair.DATANET,), "again", "again", choice=choice)
    made = models.start(market, new)
    with market.database.transaction() as transaction:
        job = jobs.claim(transaction, ["train"], now_us(), 10**9)
        assert job is not None
        assert jobs.fail(transaction, job, "why", now_us(), is_final=True).state is JobState.DEAD
    again = models.start(market, new)

    assert (again.id, again.number, again.seed) == (made.id, made.number, made.seed)
    with market.database.read() as transaction:
        assert jobs.get(transaction, job.id).state is JobState.QUEUED
    assert models.show_run(market, WhichRun("again")).state == "begun"
