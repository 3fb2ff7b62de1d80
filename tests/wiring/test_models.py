"""The model rooms: one bad part never takes the others down."""

from hashlib import sha256

import msgspec
import pytest

from openledger.attribution.release import Recipe, build
from openledger.core.errors import DigestMismatchError, OpenLedgerError
from openledger.core.ids import parse_release_name
from openledger.core.types import Digest
from openledger.flows.data.obtain import SOURCES, Package, Registry, Source
from openledger.flows.model.train.plan import attribution_folder
from openledger.flows.money.infer import answer
from openledger.flows.money.infer.request import CallRequest
from openledger.lm.checkpoint import save_adapter
from openledger.lm.tokenizer import Tokenizer
from openledger.storage.records.model import releases
from openledger.storage.records.money import balances, calls
from openledger.wiring import models as wired
from openledger.wiring.models import Models
from openledger.wiring.platform import Platform, now_us
from tests import market as fair
from tests.attribution.releases import SEED, examples_of, some_adapter, some_model, some_text
from tests.fakes import FailingTransport


def test_an_adapter_that_cannot_be_read_keeps_nothing_else_from_being_served(
    market: Platform,
) -> None:
    """The market's only adapter is no adapter at all."""
    assert market.models.engine.residency() == ()
    assert market.models.base_name


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
    state = build(folder, some_model(base), examples, Recipe(digest, SEED, width=4_096))
    with market.database.read() as transaction:
        published = releases.by_name(transaction, parse_release_name(fair.MODEL))
    release = msgspec.structs.replace(
        published,
        adapter=digest,
        base=base.digest,
        folder=str(folder.parent.relative_to(market.home.root)),
        training_root=state.training_root,
    )
    assert market.models.scorer(release) is market.models.scorer(release)

    moved = msgspec.structs.replace(release, id="other", training_root=Digest("1" * 64))
    with pytest.raises(DigestMismatchError, match="training root"):
        market.models.scorer(moved)
