"""The model rooms: one bad part never takes the others down."""

import errno
from hashlib import sha256
from types import ModuleType
from typing import NoReturn

import msgspec
import pytest
from safetensors import SafetensorError

from openledger.attribution import state as attribution_state
from openledger.attribution.influence.gradients import ProbedModel
from openledger.attribution.release import Recipe, build
from openledger.core.errors import (
    DigestMismatchError,
    NotFoundError,
    NothingToSettleError,
    OpenLedgerError,
)
from openledger.core.ids import parse_release_name
from openledger.core.types import PARTS_PER_BILLION, Digest, ReceiptId
from openledger.flows.data.obtain import SOURCES, Package, Registry, Source
from openledger.flows.model.train import flow, plan
from openledger.flows.model.train.plan import attribution_folder
from openledger.flows.money.attribute import Member
from openledger.flows.money.infer import answer
from openledger.flows.money.infer.request import CallRequest
from openledger.lm import checkpoint
from openledger.lm.base import load_base
from openledger.lm.checkpoint import save_adapter
from openledger.lm.lora import Adapter, LoraPair
from openledger.lm.tokenizer import Tokenizer
from openledger.operations.models import NewRun, RecipeChoice, WhichRun
from openledger.operations.receipts import PENDING, ShowReceipt
from openledger.settlement.receipt import read_statement
from openledger.settlement.shares import Segment
from openledger.storage.records.model import releases
from openledger.storage.records.model.releases import Release
from openledger.storage.records.money import balances, calls
from openledger.training.steps import state as training_state
from openledger.web.operations import models as operations
from openledger.web.operations import receipts
from openledger.web.work import worker_of
from openledger.wiring import models as wired
from openledger.wiring.models import Models
from openledger.wiring.platform import Platform, now_us
from openledger.wiring.private import open_private
from tests import market as fair
from tests.attribution.releases import SEED, alone, examples_of, some_adapter, some_model, some_text
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
    choice = RecipeChoice(epochs=1, rank=2, last_layers=1, scored_tunes=0)
    new = NewRun((fair.DATANET,), "run", "run", choice=choice)
    made = operations.start(market, new)

    def fail(*_: object, **__: object) -> NoReturn:
        raise fault

    with monkeypatch.context() as broken:
        broken.setattr(module, writer, fail)
        assert worker_of(market).drain() == 1
    failed = operations.show_run(market, WhichRun(made.id))
    with market.database.transaction() as transaction:
        transaction.connection.exec_driver_sql("UPDATE jobs SET run_at = 0 WHERE kind = 'train'")
    worker_of(market).drain()
    trained = operations.show_run(market, WhichRun(made.id))

    assert failed.state == "failed"
    assert reason in (failed.error or "")
    assert failed.retry_at is not None
    assert (trained.state, trained.error, trained.retry_at) == ("trained", None, None)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["reading", "training", "measuring", flow.BUILDING, flow.SCORING])
def test_a_run_makes_way_for_a_worker_that_stops_and_goes_on_with_the_next(
    market: Platform, stage: str
) -> None:
    choice = RecipeChoice(epochs=1, rank=2, last_layers=1, scored_tunes=0)
    new = NewRun((fair.DATANET,), "run", "run", choice=choice)
    made = operations.start(market, new)
    worker = worker_of(market)
    market.models.tell = lambda step: worker.stop() if step.stage == stage else None
    ended = worker.drain()
    stopped = operations.show_run(market, WhichRun(made.id))
    worker_of(market).drain()
    trained = operations.show_run(market, WhichRun(made.id))

    assert (ended, stopped.state, stopped.stage, stopped.error) == (0, "training", stage, None)
    assert (trained.state, trained.error) == ("trained", None)


@pytest.mark.slow
def test_a_run_that_broke_for_the_last_time_is_not_said_to_be_tried_again(
    market: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = RecipeChoice(epochs=1, rank=2, last_layers=1, scored_tunes=0)
    new = NewRun((fair.DATANET,), "run", "run", choice=choice)
    made = operations.start(market, new)

    def fail(*_: object) -> NoReturn:
        raise MemoryError

    monkeypatch.setattr(flow, "finetune", fail)
    with market.database.transaction() as transaction:
        transaction.connection.exec_driver_sql("UPDATE jobs SET attempt = max_attempts - 1")
    worker_of(market).drain()
    failed = operations.show_run(market, WhichRun(made.id))

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


def test_chores_forget_what_is_old_and_give_back_what_nobody_charges(
    market: Platform, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home that was closed for a month still owes those whose data made its last answers."""
    (done,) = fair.paid_calls(market, tokenizer, 1)
    desk = fair.desk(market, tokenizer)
    payer = fair.payer(market).address
    pending = fair.call(desk, payer)
    answer.start(desk, CallRequest(payer, fair.MODEL, "X:1\n", max_tokens=20))  # and then it died
    later = now_us() + 30 * 86_400 * 1_000_000
    monkeypatch.setattr(wired, "now_us", lambda: later)
    Models(market).chores()

    with market.database.transaction() as transaction:
        assert calls.get(transaction, done.receipt_id).private is None
        assert calls.get(transaction, pending.receipt_id).private is not None
        assert balances.position(transaction, market.gateway.account, payer).held == 0
    fair.attribute(market, [pending.receipt_id])
    assert market.settle.run().size == 2


def test_a_state_that_is_not_the_one_on_chain_pays_nobody(market: Platform) -> None:
    """Who edits its manifest, consistently, would move money to another account."""
    base = market.models.base(market.models.precision)
    folder = attribution_folder(market.home.run(Digest("e" * 64)))
    examples = examples_of(base, [some_text(i) for i in range(4)], [0, 1, 2, 3])
    digest = save_adapter(market.home.adapter("new"), some_adapter(base), base.name)
    market.home.adapter("new").rename(market.home.adapter(digest))
    state = build(folder, alone(some_model(base)), examples, Recipe(digest, digest, SEED))
    with market.database.read() as transaction:
        published = releases.by_name(transaction, parse_release_name(fair.MODEL))
    release = msgspec.structs.replace(
        published,
        adapter=digest,
        base=base.digest,
        folder=str(folder.parent.relative_to(market.home.root)),
        training_root=state.training_root,
    )
    only = (Member(release, PARTS_PER_BILLION),)
    assert market.models.scorer(only) is market.models.scorer(only)

    moved = msgspec.structs.replace(release, id="other", training_root=Digest("1" * 64))
    with pytest.raises(DigestMismatchError, match="training root"):
        market.models.scorer((Member(moved, PARTS_PER_BILLION),))


@pytest.fixture
def attributed(market: Platform) -> Release:
    """A release with a real adapter and its attribution state, whose answers gain over the base."""
    base = market.models.base(market.models.precision)
    calm = some_adapter(base)
    pairs = {site: LoraPair(pair.a, pair.b * 30) for site, pair in calm.pairs.items()}
    lively = Adapter(calm.shape, calm.base, pairs)
    digest = save_adapter(market.home.adapter("new"), lively, base.name)
    market.home.adapter("new").rename(market.home.adapter(digest))
    run = fair.trained(market, "whole", digest)
    folder = attribution_folder(market.home.run(run.op))
    examples = examples_of(base, [some_text(i) for i in range(4)], [0, 1, 2, 3])
    state = build(folder, alone(ProbedModel(base, lively)), examples, Recipe(digest, digest, SEED))
    offer = msgspec.structs.replace(
        fair.offer(run, "whole"),
        training_root=state.training_root,
        training_size=state.training_size,
    )
    release = market.publish.run(offer)
    market.models.serve(release)
    return release


def ask_whole(market: Platform) -> ReceiptId:
    request = CallRequest(fair.payer(market).address, "openledger/whole", "X:1\n", max_tokens=9)
    made = answer.start(market.models.desk, request)
    list(made)
    assert made.result().fee > 0
    return made.result().receipt_id


def make_due(market: Platform) -> None:
    """As if every wait were over."""
    with market.database.transaction() as transaction:
        transaction.connection.exec_driver_sql("UPDATE jobs SET run_at = 0")


@pytest.mark.parametrize("is_gone", [True, False], ids=["missing", "altered"])
@pytest.mark.parametrize("name", [attribution_state.ROWS, attribution_state.MANIFEST])
def test_a_call_waits_unpaid_while_a_file_of_its_release_is_bad(
    market: Platform, attributed: Release, name: str, is_gone: bool
) -> None:
    file = attribution_folder(market.home.root / attributed.folder) / name
    whole = file.read_bytes()
    receipt = ask_whole(market)
    file.unlink()
    if not is_gone:
        file.write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])
    worker = worker_of(market)
    worker.drain()
    waiting = receipts.show(market, ShowReceipt(receipt))
    with pytest.raises(NothingToSettleError):
        market.settle.run()
    file.write_bytes(whole)
    make_due(market)
    worker.drain()
    shown = receipts.show(market, ShowReceipt(receipt))

    assert (waiting.state, waiting.parts, waiting.bundle) == (PENDING, (), b"")
    assert "tried again" in waiting.notes[0]
    assert (shown.state, shown.notes) == ("attributed", ())
    assert sum(part.amount for part in shown.parts) == shown.fee
    assert market.settle.run().size == 1


def attributed_again(market: Platform, release: Release, receipt: ReceiptId) -> tuple[Segment, ...]:
    with market.database.read() as transaction:
        private = open_private(market, calls.get(transaction, receipt))
    only = (Member(release, PARTS_PER_BILLION),)
    (scores,) = market.models.scorer(only).attribute(private.prompt_ids(), private.answer_ids())
    return scores.segments


@pytest.mark.slow
def test_calls_are_attributed_between_the_steps_of_a_run(
    market: Platform, attributed: Release
) -> None:
    """In every stage, in the midst of whatever the training has set up on the base model."""
    choice = RecipeChoice(epochs=1, rank=2, last_layers=1, scored_tunes=1)
    made = operations.start(market, NewRun((fair.DATANET,), "run", "run", choice=choice))
    worker = worker_of(market)
    asked: dict[str, ReceiptId] = {}

    def tell(step: plan.Step) -> None:
        if step.stage not in asked:
            asked[step.stage] = ask_whole(market)

    market.models.tell = tell
    turns = worker.drain()
    run = operations.show_run(market, WhichRun(made.id))
    with market.database.read() as transaction:
        said = [calls.statement(transaction, receipt) for receipt in asked.values()]

    assert turns == 1  # all of them within the one turn of the run
    assert run.state == "trained"
    assert set(asked) >= {"reading", "training", "measuring", flow.BUILDING, flow.SCORING}
    found = [read_statement(row.record).body.members[0].segments for row in said if row is not None]
    assert found == [attributed_again(market, attributed, one) for one in asked.values()]
    assert any(segments and segments[0].clusters for segments in found)
    assert market.settle.run().size == len(asked)
