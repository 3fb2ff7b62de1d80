from dataclasses import replace

import msgspec
import pytest

from openledger.chain.acts import Acts
from openledger.chain.client import Client
from openledger.chain.config import Config
from openledger.chain.contracts import Contracts
from openledger.core.errors import (
    ChainUnavailableError,
    InsufficientBalanceError,
    InvalidInputError,
    NotAllowedError,
)
from openledger.core.types import Wei
from openledger.flows.money.fund import Exit
from openledger.lm.tokenizer import Tokenizer
from openledger.storage.records.data.accounts import AccountKind
from openledger.storage.records.money import balances
from openledger.wiring.platform import Platform
from tests import market as fair
from tests.fakes import FailingTransport

AMOUNT = Wei(7)


def position(market: Platform) -> balances.Position:
    payer = fair.payer(market).address
    with market.database.transaction() as transaction:
        return balances.position(transaction, market.gateway.account, payer)


def test_a_deposit_raises_the_voucher_to_all_deposits(market: Platform) -> None:
    has = market.fund.deposit(fair.payer(market), AMOUNT, "second")

    assert has.escrow.deposited == fair.DEPOSITED + AMOUNT
    assert has.voucher is not None
    assert has.voucher.limit == has.escrow.deposited


def test_the_same_deposit_again_moves_nothing(market: Platform) -> None:
    first = market.fund.deposit(fair.payer(market), AMOUNT, "second")

    assert market.fund.deposit(fair.payer(market), AMOUNT, "second") == first
    assert position(market) == first


@pytest.mark.parametrize("amount", [0, -5])
def test_nothing_to_deposit_is_refused(market: Platform, amount: int) -> None:
    with pytest.raises(InvalidInputError, match="more than 0"):
        market.fund.deposit(fair.payer(market), Wei(amount), "second")


def test_more_than_the_account_holds_is_refused(market: Platform) -> None:
    with pytest.raises(InsufficientBalanceError, match="get some first"):
        market.fund.deposit(fair.payer(market), Wei(2 * fair.DEPOSITED), "second")
    assert position(market).escrow.deposited == fair.DEPOSITED


def test_there_is_no_faucet_on_a_real_chain(market: Platform) -> None:
    own = market.acts.contracts
    profile = msgspec.structs.replace(own.client.config.profile, is_development=False)
    client = Client(own.client._transport, Config(profile=profile))
    acts = Acts(
        market.database, Contracts(client, own.deployment), market.acts.outbox, timeout_s=1.0
    )
    real = replace(market.fund, acts=acts)
    with pytest.raises(NotAllowedError, match="nobody gives money away"):
        real.faucet(fair.payer(market).address, AMOUNT, "1")


@pytest.mark.parametrize("is_heard", [False, True])
def test_a_chain_that_goes_down_at_any_request_deposits_once(
    market: Platform, is_heard: bool
) -> None:
    new = market.account("user/nora", AccountKind.USER, "Nora")
    fault = FailingTransport(fair.direct(market), is_heard=is_heard)
    weak = fair.over(market, fault)
    failures = 0
    for patience in range(40):
        fault.left = patience
        try:
            weak.fund.faucet(new.address, Wei(10 * AMOUNT), "1")
            weak.fund.deposit(new, AMOUNT, "1")
        except ChainUnavailableError:
            failures += 1
        else:
            break
    fault.left = None
    has = weak.fund.deposit(new, AMOUNT, "1")
    held = market.acts.contracts.read(int, "OpenToken", "balanceOf", new.address)

    assert failures > 3
    assert (has.escrow.deposited, held) == (AMOUNT, 9 * AMOUNT)
    assert has.free == AMOUNT


def held(market: Platform) -> int:
    return market.acts.contracts.read(int, "OpenToken", "balanceOf", fair.payer(market).address)


def test_what_no_call_used_is_taken_back(market: Platform) -> None:
    before = held(market)
    left = market.fund.withdraw(fair.payer(market), AMOUNT, "first")
    again = market.fund.withdraw(fair.payer(market), AMOUNT, "first")

    assert left == again == Exit(0, 0)
    assert held(market) == before + AMOUNT
    assert position(market).escrow.withdrawn == AMOUNT
    market.fund.withdraw(fair.payer(market), AMOUNT, "second")
    assert held(market) == before + 2 * AMOUNT


def test_what_calls_used_stays(market: Platform, tokenizer: Tokenizer) -> None:
    (made,) = fair.paid_calls(market, tokenizer, 1)
    everything = fair.DEPOSITED
    with pytest.raises(InsufficientBalanceError, match="withdraw less"):
        market.fund.withdraw(fair.payer(market), everything, "all")
    with pytest.raises(InvalidInputError, match="more than 0"):
        market.fund.withdraw(fair.payer(market), Wei(0), "none")
    market.fund.withdraw(fair.payer(market), Wei(everything - made.fee), "rest")

    assert position(market).free == 0
    with pytest.raises(InsufficientBalanceError, match="deposit more"):
        fair.call(fair.desk(market, tokenizer), fair.payer(market).address)


def test_a_withdrawal_waits_for_its_time_and_then_goes_on(
    market: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Client.now_s
    monkeypatch.setattr(Client, "now_s", lambda self, us: real(self, us) if us > 0 else us)
    early = replace(market.fund, clock=lambda: 0)  # to it nothing is ready
    before = held(market)
    waiting = early.withdraw(fair.payer(market), AMOUNT, "first")

    assert waiting.amount == AMOUNT
    assert waiting.ready_at > 0
    assert position(market).escrow.exiting == AMOUNT
    assert position(market).free == fair.DEPOSITED - AMOUNT
    assert held(market) == before
    assert market.fund.withdraw(fair.payer(market), AMOUNT, "first") == Exit(0, 0)
    assert held(market) == before + AMOUNT


@pytest.mark.parametrize("is_heard", [False, True])
def test_a_chain_that_goes_down_at_any_request_pays_back_once(
    market: Platform, is_heard: bool
) -> None:
    before = held(market)
    fault = FailingTransport(fair.direct(market), is_heard=is_heard)
    weak = fair.over(market, fault)
    failures = 0
    for patience in range(60):
        fault.left = patience
        try:
            weak.fund.withdraw(fair.payer(market), AMOUNT, "first")
        except ChainUnavailableError:
            failures += 1
        else:
            break
    fault.left = None

    assert failures > 3
    assert market.fund.withdraw(fair.payer(market), AMOUNT, "first") == Exit(0, 0)
    assert held(market) == before + AMOUNT
