import msgspec
import pytest

from openledger.core.errors import ChainUnavailableError, ConflictError
from openledger.datanet.rules import Rules
from openledger.wiring.platform import Platform
from tests import market as fair
from tests.fakes import FailingTransport

RULES = Rules(name="sea-songs", description="Songs of the sea.", licences=("CC0-1.0",))


def test_creating_a_datanet_again_finds_it(market: Platform) -> None:
    owner = fair.operator(market)
    made = market.create_datanet.run(owner, "Sea songs", RULES)

    assert made.number == 2
    assert market.create_datanet.run(owner, "Sea songs", RULES) == made


def test_other_rules_under_the_same_name_are_refused(market: Platform) -> None:
    owner = fair.operator(market)
    market.create_datanet.run(owner, "Sea songs", RULES)

    with pytest.raises(ConflictError):
        market.create_datanet.run(
            owner, "Sea songs", msgspec.structs.replace(RULES, data_floor_bps=1)
        )


def test_a_chain_that_is_down_creates_it_once(market: Platform) -> None:
    fault = FailingTransport(fair.direct(market))
    weak = fair.over(market, fault)
    owner = fair.operator(market)
    failures = 0
    for patience in range(30):
        fault.left = patience
        try:
            weak.create_datanet.run(owner, "Sea songs", RULES)
        except ChainUnavailableError:
            failures += 1
        else:
            break
    fault.left = None

    assert failures > 1
    assert weak.create_datanet.run(owner, "Sea songs", RULES).number == 2
