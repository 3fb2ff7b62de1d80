from hashlib import sha256

import msgspec
import pytest

from openledger.core.errors import (
    ChainRejectedError,
    ChainUnavailableError,
    ConflictError,
    InvalidInputError,
)
from openledger.core.ids import ReleaseName
from openledger.settlement.price import SplitPolicy
from openledger.storage.records.model import releases
from openledger.storage.records.model.runs import RunState
from openledger.wiring.platform import Platform
from tests import market as fair
from tests.fakes import FailingTransport


def test_publishing_a_run_again_finds_its_release(market: Platform) -> None:
    run = fair.trained(market, "second")
    made = fair.publish(market, run)

    assert (made.full_name, made.number) == ("openledger/tiny-tunes@2", 2)
    assert fair.publish(market, run) == made


def test_a_run_that_is_not_trained_cannot_be_published(market: Platform) -> None:
    run = msgspec.structs.replace(fair.trained(market, "second"), state=RunState.TRAINING)

    with pytest.raises(ConflictError, match="is training; train it to its end first"):
        fair.publish(market, run)


def test_a_name_that_is_none_is_refused(market: Platform) -> None:
    run = fair.trained(market, "second")

    with pytest.raises(InvalidInputError):
        market.publish.run(
            msgspec.structs.replace(fair.offer(run), name=ReleaseName("Bad Owner", "x", None))
        )


def test_the_contract_holds_the_datanets_floor(market: Platform) -> None:
    run = fair.trained(market, "second")
    policy = SplitPolicy(platform=5_000, data=1_000)
    greedy = msgspec.structs.replace(fair.offer(run), policy=policy)

    with pytest.raises(ChainRejectedError):
        market.publish.run(greedy)


def test_two_owners_of_one_name_are_two_models_on_chain(market: Platform) -> None:
    mine = fair.offer(fair.trained(market, "second"))
    yours = msgspec.structs.replace(mine, run=fair.trained(market, "third"))
    made = [
        market.publish.run(msgspec.structs.replace(offer, name=ReleaseName(owner, "x", None)))
        for offer, owner in ((mine, "me"), (yours, "you"))
    ]

    assert [one.full_name for one in made] == ["me/x@1", "you/x@1"]
    for one in made:
        slug = sha256(f"{one.owner}/x".encode()).hexdigest()
        versions = market.acts.contracts.read(int, "Models", "version_count", one.builder, slug)
        first = market.acts.contracts.read(int, "Models", "release_of", one.builder, slug, 1)
        assert (versions, first) == (1, one.number)


def test_a_name_belongs_to_its_first_builder(market: Platform) -> None:
    run = msgspec.structs.replace(
        fair.trained(market, "second"), builder=fair.payer(market).address
    )

    with pytest.raises(ConflictError, match="openledger/tiny-tunes is a model of"):
        fair.publish(market, run)


@pytest.mark.parametrize("is_heard", [False, True])
def test_an_outage_at_any_request_publishes_and_deprecates_once(
    market: Platform, is_heard: bool
) -> None:
    run = fair.trained(market, "second")
    fault = FailingTransport(fair.direct(market), is_heard=is_heard)
    weak = fair.over(market, fault)
    failures = 0
    for patience in range(40):
        fault.left = patience
        try:
            weak.publish.deprecate(fair.publish(weak, run), fair.operator(market))
        except ChainUnavailableError:
            failures += 1
        else:
            break
    fault.left = None
    made = weak.publish.deprecate(fair.publish(weak, run), fair.operator(market))
    with market.database.read() as transaction:
        known = releases.list_all(transaction)

    assert failures > 3
    assert [one.number for one in known] == [1, 2]
    assert made.deprecated_at is not None
