"""The model rooms: one bad part never takes the others down."""

from hashlib import sha256

import msgspec
import pytest

from openledger.core.errors import OpenLedgerError
from openledger.core.types import Digest
from openledger.flows.data.obtain import SOURCES, Package, Registry, Source
from openledger.wiring.models import Models
from openledger.wiring.platform import Platform
from tests import market as fair
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
