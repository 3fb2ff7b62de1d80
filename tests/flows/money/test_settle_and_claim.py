from openledger.lm.tokenizer import Tokenizer
from openledger.wiring.platform import Platform
from tests import market as fair


def test_what_was_spent_is_settled_claimed_and_every_wei_stands_where_it_should(
    market: Platform, tokenizer: Tokenizer
) -> None:
    made = fair.paid_calls(market, tokenizer, 3)
    epoch = market.settle.run()
    paid = market.claim.run([*fair.contributors(market), fair.operator(market).address])
    market.fund.refresh(fair.payer(market).address)
    identity = market.check_identity.run((fair.payer(market).address,))

    assert epoch.drawn == sum(one.fee for one in made) > 0
    assert (epoch.number, epoch.state.value, epoch.payout_number) == (1, "active", 1)
    assert len(paid) == 3
    assert identity.broken == ()
    assert identity.holds
