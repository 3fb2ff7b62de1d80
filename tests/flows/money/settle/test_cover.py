"""A payer who does not pay costs the gateway that served him, and nobody else."""

from dataclasses import replace

import pytest

from openledger.chain.outbox.rows import op_id
from openledger.core.errors import InsufficientBalanceError
from openledger.core.types import Account, Wei
from openledger.lm.tokenizer import Tokenizer
from openledger.storage.records.money import epochs
from openledger.wiring.platform import Platform, now_us
from tests import market as fair


def tokens(market: Platform, account: Account) -> int:
    return market.acts.contracts.read(int, "OpenToken", "balanceOf", account)


def covered(market: Platform) -> int:
    return market.acts.contracts.read(int, "Escrow", "covered", market.gateway.account)


def take_everything_out(market: Platform) -> None:
    """By the payer's own hand, past the gateway, as the contract lets him after its delay."""
    payer = fair.payer(market)
    contracts, gateway = market.acts.contracts, market.gateway.account
    for act, arguments in (("request_exit", (gateway, fair.DEPOSITED)), ("exit", (gateway,))):
        write = contracts.write("Escrow", act, *arguments, acting=payer.label)
        market.acts.perform({op_id("past the gateway", act): write})


def broken(market: Platform) -> tuple[str, ...]:
    payer = fair.payer(market).address
    market.fund.refresh(payer)
    return market.check_identity.run().broken


def earners(market: Platform) -> list[Account]:
    return [*fair.contributors(market), fair.operator(market).address, market.treasury]


def test_contributors_are_paid_in_full_when_a_payer_takes_his_money_first(
    market: Platform, tokenizer: Tokenizer
) -> None:
    made = fair.paid_calls(market, tokenizer, 2)
    fees = sum(one.fee for one in made)
    operator = fair.operator(market).address
    market.fund.faucet(operator, Wei(fees + 5), "cover")
    before = tokens(market, operator)
    take_everything_out(market)
    epoch = market.settle.run()

    assert (epoch.state, epoch.drawn, covered(market)) == (epochs.EpochState.ACTIVE, fees, fees)
    assert tokens(market, operator) == before - fees
    assert sum(one.amount for one in market.claim.run(earners(market))) > fees / 2
    assert broken(market) == ()


def test_what_comes_in_later_goes_back_to_the_gateway(
    market: Platform, tokenizer: Tokenizer
) -> None:
    (made,) = fair.paid_calls(market, tokenizer, 1)
    operator = fair.operator(market).address
    market.fund.faucet(operator, Wei(made.fee), "cover")
    take_everything_out(market)
    market.settle.run()
    before = tokens(market, operator)
    market.fund.deposit(fair.payer(market), fair.DEPOSITED, "again")
    (later,) = fair.paid_calls(market, tokenizer, 1)
    market.settle.run()

    assert tokens(market, operator) == before + made.fee
    assert covered(market) == 0
    assert market.fund.deposit(fair.payer(market), Wei(1), "look").escrow.spent == (
        made.fee + later.fee
    )
    assert broken(market) == ()


def test_a_gateway_without_money_is_told_what_is_missing_and_goes_on_when_it_is_there(
    market: Platform, tokenizer: Tokenizer
) -> None:
    (made,) = fair.paid_calls(market, tokenizer, 1)
    operator = fair.operator(market).address
    take_everything_out(market)
    contracts = market.acts.contracts
    everything = tokens(market, operator)
    away = contracts.write("OpenToken", "transfer", market.treasury, everything)
    market.acts.perform({op_id("away"): away})
    with pytest.raises(InsufficientBalanceError, match=f"left {made.fee} wei .* send it OPEN"):
        market.settle.run()
    market.fund.deposit(fair.payer(market), made.fee, "after all")

    assert market.settle.run().state is epochs.EpochState.ACTIVE
    assert covered(market) == 0
    assert broken(market) == ()


def test_an_expired_voucher_holds_up_nobody(market: Platform, tokenizer: Tokenizer) -> None:
    (made,) = fair.paid_calls(market, tokenizer, 1)
    operator = fair.operator(market).address
    market.fund.faucet(operator, Wei(made.fee), "cover")
    year_s = 400 * 86_400
    fair.direct(market).make_request("evm_increaseTime", [hex(year_s)])
    settled = replace(market.settle, clock=lambda: now_us() + year_s * 1_000_000).run()

    assert settled.state is epochs.EpochState.ACTIVE
    assert covered(market) == made.fee
    assert broken(market) == ()
