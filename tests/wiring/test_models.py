"""The model rooms: one bad part never takes the others down."""

import dataclasses
import errno
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Literal, NoReturn

import msgspec
import pytest
import torch
from msgspec.structs import replace
from safetensors import SafetensorError

from openledger.attribution import state as attribution_state
from openledger.attribution.attribute import gain_of
from openledger.attribution.influence.gradients import ProbedModel
from openledger.attribution.release import Recipe, build
from openledger.core.encoding import decode
from openledger.core.errors import (
    DigestMismatchError,
    InvalidInputError,
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
from openledger.flows.money.verify.bundle import read_bundle
from openledger.flows.money.verify.full import verify_full
from openledger.flows.money.verify.public import verify_bundle
from openledger.lm import checkpoint
from openledger.lm.base import BaseModel, load_base
from openledger.lm.checkpoint import load_adapter, save_adapter
from openledger.lm.lora import Adapter, LoraHost, LoraPair, MixMember
from openledger.lm.tokenizer import Tokenizer
from openledger.operations.models import NewRun, RecipeChoice, WhichRun
from openledger.operations.receipts import PENDING, ShowReceipt
from openledger.settings import VllmSettings
from openledger.settlement.receipt import Private, SignedCall, read_statement
from openledger.settlement.shares import Segment, member_ppb
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
from tests.fakes import FailingTransport, FakeVllm
from tests.serving.tiny import llama_adapter, logits_of


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


def test_a_vllm_server_of_the_settings_answers_and_the_receipt_says_so(
    market: Platform, real: Release, tmp_path: Path
) -> None:
    logits = logits_of(load_base(market.models.base_folder))
    server = FakeVllm(lambda ids, folder: logits(ids, [(folder, 1.0)] if folder else []), 256)
    key = tmp_path / "key"
    key.write_text("secret\n")
    vllm = VllmSettings(url=server.url, key_file=str(key), folder=str(tmp_path / "shelf"))
    other = dataclasses.replace(
        market, settings=msgspec.structs.replace(market.settings, vllm=vllm)
    )
    try:
        made = ask(other)
        list(made)

        with market.database.read() as transaction:
            record = calls.get(transaction, made.receipt_id).record
        assert decode(record, SignedCall).body.engine == "vllm-0.32.0/unstated/own-draws"
        assert server.asked[-1]["model"] == real.adapter
        assert server.adapters == {real.adapter: tmp_path / "shelf" / real.adapter}
    finally:
        other.models.close()
        server.close()


def test_a_key_file_that_cannot_be_read_is_said(market: Platform) -> None:
    vllm = VllmSettings(url="http://127.0.0.1:1", key_file="/nowhere")
    other = dataclasses.replace(
        market, settings=msgspec.structs.replace(market.settings, vllm=vllm)
    )

    with pytest.raises(InvalidInputError, match=r"vllm\.key_file"):
        other.models.engine.close()


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


@pytest.mark.parametrize(("weights", "dtype"), [("float", "float32"), ("int8", "int8")])
def test_receipts_name_the_precision_of_the_engine_and_attribution_keeps_its_own(
    market: Platform, real: Release, weights: Literal["float", "int8"], dtype: str
) -> None:
    chosen = replace(market.settings.models, weights=weights)
    platform = dataclasses.replace(market, settings=replace(market.settings, models=chosen))
    made = ask(platform)
    pieces = list(made)
    with platform.database.read() as transaction:
        call = decode(calls.get(transaction, made.receipt_id).record, SignedCall)
    platform.models.close()

    assert pieces
    assert call.body.engine == f"embedded-4/{dtype}"
    assert platform.models.attribute.precision == "float32"


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
    return attributed_release(market, "whole")


def attributed_release(market: Platform, name: str, seed: int = 0) -> Release:
    base = market.models.base(market.models.precision)
    calm = some_adapter(base, seed)
    pairs = {site: LoraPair(pair.a, pair.b * 30) for site, pair in calm.pairs.items()}
    lively = Adapter(calm.shape, calm.base, pairs)
    digest = save_adapter(market.home.adapter("new"), lively, base.name)
    market.home.adapter("new").rename(market.home.adapter(digest))
    run = fair.trained(market, name, digest)
    folder = attribution_folder(market.home.run(run.op))
    texts = [some_text(4 * seed + i) for i in range(4)]
    examples = examples_of(base, texts, [4 * seed + i for i in range(4)])
    state = build(folder, alone(ProbedModel(base, lively)), examples, Recipe(digest, digest, SEED))
    offer = msgspec.structs.replace(
        fair.offer(run, name),
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


def test_a_mix_divides_builder_and_data_money_by_what_each_member_added(
    market: Platform, attributed: Release
) -> None:
    """Weights decide the answer, not the money: that is divided by leave-one-out gains."""
    other = attributed_release(market, "other", 1)
    mix = f"mix:{attributed.full_name}*0.25+{other.full_name}*0.75"
    request = CallRequest(fair.payer(market).address, mix, "X:1\n", max_tokens=24, nonce="5")
    made = answer.start(market.models.desk, request)
    list(made)
    worker_of(market).drain()
    shown = receipts.show(market, ShowReceipt(made.receipt_id, is_private=True, rows=2))
    with market.database.read() as transaction:
        private = open_private(market, calls.get(transaction, made.receipt_id))
        said = calls.statement(transaction, made.receipt_id)
    assert said is not None
    members = read_statement(said.record).body.members
    base = market.models.base(market.models.precision)
    added = [
        gain_without(base, [(attributed, 0.25), (other, 0.75)], place, private, market)
        for place in range(2)
    ]

    assert shown.model == mix
    assert [one.leave_one_out_micronats for one in members] == pytest.approx(added, abs=1_000)
    assert [one.added_micronats for one in shown.members] == pytest.approx(added, abs=1_000)
    assert max(added) > 0
    assert [one.part_ppb for one in shown.members] == member_ppb(members)
    assert sum(part.amount for part in shown.parts) == shown.fee
    assert verify_bundle(shown.bundle, None).fee == shown.fee
    assert verify_full(read_bundle(shown.bundle), None, {})


def gain_without(
    base: BaseModel,
    mix: list[tuple[Release, float]],
    left_out: int,
    private: Private,
    market: Platform,
) -> int:
    """What the answer lost without one member, by plain forward passes."""
    adapters = [load_adapter(market.home.adapter(one.adapter), base, one.adapter) for one, _ in mix]
    prompt, tokens = private.prompt_ids(), private.answer_ids()
    ids = torch.tensor([[*prompt, *tokens]])

    def chances(members: list[int]) -> torch.Tensor:
        host = LoraHost(base.model, base.digest)
        for place in members:
            host.add(mix[place][0].adapter, adapters[place])
        weighted = [MixMember(mix[place][0].adapter, mix[place][1]) for place in members]
        with host.mixed(weighted) as model, torch.no_grad():
            logs = model(ids).logits[0].log_softmax(-1)
        host.close()
        return torch.stack([logs[len(prompt) + i - 1, token] for i, token in enumerate(tokens)])

    gain = gain_of(chances([0, 1]), chances([1 - left_out]))
    assert gain is not None
    return gain


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
