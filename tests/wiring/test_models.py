"""The model rooms: one bad part never takes the others down."""

import errno
from hashlib import sha256
from types import ModuleType
from typing import NoReturn

import msgspec
import pytest
from safetensors import SafetensorError

from openledger.attribution import state as attribution_state
from openledger.core.errors import DigestMismatchError, NotFoundError, OpenLedgerError
from openledger.core.types import Digest
from openledger.flows.data.obtain import SOURCES, Package, Registry, Source
from openledger.flows.model.train import flow
from openledger.flows.money.infer import answer
from openledger.flows.money.infer.request import CallRequest
from openledger.lm import checkpoint
from openledger.lm.base import load_base
from openledger.storage.records.model.releases import Release
from openledger.storage.records.money import balances
from openledger.training.steps import state as training_state
from openledger.web.operations import models as operations
from openledger.web.work import worker_of
from openledger.wiring.models import Models
from openledger.wiring.platform import Platform
from tests import market as fair
from tests.fakes import FailingTransport
from tests.serving.tiny import llama_adapter


@pytest.fixture
def real(market: Platform) -> Release:
    """A second release, whose adapter is one; that of the market's first is none at all."""
    scratch = market.home.adapter("new")
    made = llama_adapter(scratch, load_base(market.models.base_folder), 1)
    scratch.rename(market.home.adapter(made.digest))
    return market.publish.run(fair.offer(fair.trained(market, "real", made.digest), "real"))


def ask(market: Platform) -> answer.Inference | answer.Replay:
    request = CallRequest(fair.payer(market).address, "openledger/real", "X:1\n", max_tokens=4)
    return answer.start(market.models.desk, request)


def test_an_adapter_that_cannot_be_read_keeps_nothing_else_from_being_served(
    market: Platform, real: Release
) -> None:
    made = ask(market)
    list(made)

    assert [one.digest for one in market.models.engine.residency()] == [real.adapter]
    assert made.result().fee > 0


def test_a_corrupted_adapter_is_not_served(market: Platform, real: Release) -> None:
    weights = market.home.adapter(real.adapter) / checkpoint.WEIGHTS
    raw = weights.read_bytes()
    weights.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))

    with pytest.raises(NotFoundError):
        ask(market)
    with pytest.raises(DigestMismatchError):
        market.models.serve(real)
    assert market.models.engine.residency() == ()
    payer = fair.payer(market).address
    with market.database.transaction() as transaction:
        has = balances.position(transaction, market.gateway.account, payer)
    assert (has.held, has.fees) == (0, 0)

    weights.write_bytes(raw)
    market.models.serve(real)
    assert list(ask(market))


FULL = SafetensorError(f"Error while serializing: I/O error: full (os error {errno.ENOSPC})")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "writer", "fault", "reason"),
    [
        (checkpoint, "save_file", FULL, "the disk is full"),
        (training_state, "save_file", FULL, "the disk is full"),
        (attribution_state, "save_tensors", FULL, "the disk is full"),
        (attribution_state, "save_arrays", OSError(errno.ENOSPC, "full"), "the disk is full"),
        (flow, "score", MemoryError(), "MemoryError"),
        (flow, "build", ZeroDivisionError("division by zero"), "division by zero"),
    ],
)
def test_a_run_that_breaks_says_why_and_is_tried_again_to_its_end(
    market: Platform,
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
    writer: str,
    fault: Exception,
    reason: str,
) -> None:
    choice = operations.RecipeChoice(epochs=1, rank=2, last_layers=1, scored_tunes=0)
    new = operations.NewRun((fair.DATANET,), "run", "run", choice=choice)
    made = operations.start(market, new)

    def fail(*_: object, **__: object) -> NoReturn:
        raise fault

    with monkeypatch.context() as broken:
        broken.setattr(module, writer, fail)
        assert worker_of(market).drain() == 1
    failed = operations.show_run(market, operations.Which(made.id))
    with market.database.transaction() as transaction:
        transaction.connection.exec_driver_sql("UPDATE jobs SET run_at = 0 WHERE kind = 'train'")
    worker_of(market).drain()
    trained = operations.show_run(market, operations.Which(made.id))

    assert failed.state == "failed"
    assert reason in (failed.error or "")
    assert failed.retry_at is not None
    assert (trained.state, trained.error, trained.retry_at) == ("trained", None, None)


@pytest.mark.slow
def test_a_run_that_broke_for_the_last_time_is_not_said_to_be_tried_again(
    market: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = operations.RecipeChoice(epochs=1, rank=2, last_layers=1, scored_tunes=0)
    new = operations.NewRun((fair.DATANET,), "run", "run", choice=choice)
    made = operations.start(market, new)

    def fail(*_: object) -> NoReturn:
        raise MemoryError

    monkeypatch.setattr(flow, "finetune", fail)
    with market.database.transaction() as transaction:
        transaction.connection.exec_driver_sql("UPDATE jobs SET attempt = max_attempts - 1")
    worker_of(market).drain()
    failed = operations.show_run(market, operations.Which(made.id))

    assert (failed.state, failed.error, failed.retry_at) == ("failed", "MemoryError", None)


def test_chores_outlive_a_chain_that_is_down(market: Platform) -> None:
    fault = FailingTransport(fair.direct(market))
    weak = fair.over(market, fault)
    models = Models(weak)
    fault.left = 0
    models.chores()
    asked = fault.requests
    models.chores()

    assert asked > 0
    assert fault.requests == asked  # not again within the second


def test_a_base_model_that_is_none_is_refused(
    market: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = Package("base", "1", "base.whl", Digest(sha256(b"x").hexdigest()), Registry.PYPI)
    monkeypatch.setitem(SOURCES, "base-model", Source("a base", (package,)))
    folder = market.cache / "packages"
    folder.mkdir(parents=True)
    (folder / "base.whl").write_bytes(b"x")
    settings = msgspec.structs.replace(
        market.settings, models=msgspec.structs.replace(market.settings.models, base="smollm2")
    )
    object.__setattr__(market, "settings", settings)

    with pytest.raises(OpenLedgerError):
        _ = Models(market).base_digest
