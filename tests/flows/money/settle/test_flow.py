"""Settling and claiming: to the wei, once, and through every outage."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from openledger.chain.outbox.rows import op_id
from openledger.core.errors import (
    ChainUnavailableError,
    NothingToSettleError,
    VerificationError,
)
from openledger.core.merkle import Tree
from openledger.core.types import Account, Wei
from openledger.flows.money.claim import UNKNOWN_TRANSACTION, Paid
from openledger.flows.money.settle import flow as settling
from openledger.lm.tokenizer import Tokenizer
from openledger.operations.operation import Nothing
from openledger.settlement.epoch import Payout, payout_tree
from openledger.storage.database import Database, copy_sqlite
from openledger.storage.records.data.accounts import AccountKind
from openledger.storage.records.money import calls, epochs
from openledger.storage.records.money.epochs import Epoch, EpochState
from openledger.storage.tables import call_receipts
from openledger.web.operations import epochs as operations
from openledger.wiring.platform import Platform
from tests import market as fair
from tests.fakes import FailingTransport


def everybody(market: Platform) -> list[Account]:
    """Who may earn here: contributors, builder and node, platform."""
    return [*fair.contributors(market), fair.operator(market).address, market.treasury]


def broken(market: Platform) -> tuple[str, ...]:
    """The lines of the money identity that do not hold."""
    market.fund.refresh(fair.payer(market).address)
    return market.check_identity.run().broken


def test_what_was_spent_is_settled_claimed_and_every_wei_stands_where_it_should(
    market: Platform, tokenizer: Tokenizer
) -> None:
    made = fair.paid_calls(market, tokenizer, 3)
    epoch = market.settle.run()
    due = market.claim.claimable(everybody(market))
    paid = market.claim.run(everybody(market))
    read = market.acts.contracts.read

    assert epoch.drawn == sum(one.fee for one in made) > 0
    assert (epoch.number, epoch.state, epoch.payout_number) == (1, EpochState.ACTIVE, 1)
    assert {one.account: one.amount for one in paid} == due
    assert all(read(int, "OpenToken", "balanceOf", one.account) >= one.amount for one in paid)
    assert broken(market) == ()


def test_the_shares_of_the_answers_reach_the_accounts_that_made_them(
    market: Platform, tokenizer: Tokenizer
) -> None:
    fair.paid_calls(market, tokenizer, 1)
    market.settle.run()
    first, second, third, fourth = fair.contributors(market)
    paid = {one.account: one.amount for one in market.claim.run([first, second, third, fourth])}

    assert set(paid) == {first, second}
    assert paid[first] == pytest.approx(3 * paid[second], rel=1e-9)


def test_settling_with_nothing_to_settle_says_so(market: Platform) -> None:
    with pytest.raises(NothingToSettleError, match="make a call"):
        market.settle.run()
    assert market.claim.run(everybody(market)) == []
    assert market.claim.claimable(everybody(market)) == {}


def test_a_call_without_its_statement_waits_for_the_next_epoch(
    market: Platform, tokenizer: Tokenizer
) -> None:
    desk = fair.desk(market, tokenizer)
    made = [fair.call(desk, fair.payer(market).address) for _ in range(2)]
    fair.attribute(market, [made[0].receipt_id])
    first = market.settle.run()
    fair.attribute(market, [made[1].receipt_id])
    second = market.settle.run()

    assert (first.size, second.first, second.size) == (1, 2, 1)
    assert second.promised == made[0].fee + made[1].fee
    assert broken(market) == ()


def test_claiming_again_pays_nothing_twice(market: Platform, tokenizer: Tokenizer) -> None:
    fair.paid_calls(market, tokenizer, 1)
    market.settle.run()
    market.claim.run(everybody(market))

    assert market.claim.run(everybody(market)) == []
    assert market.claim.claimable(everybody(market)) == {}
    fair.paid_calls(market, tokenizer, 1)
    market.settle.run()
    assert len(market.claim.run(everybody(market))) == 4
    assert broken(market) == ()


def test_commons_is_promised_its_part_and_never_claimed(
    market: Platform, tokenizer: Tokenizer
) -> None:
    fair.paid_calls(market, tokenizer, 1)
    market.settle.run()
    commons = market.acts.contracts.deployment.payouts
    with market.database.read() as transaction:
        rows = epochs.payouts_of(transaction, market.gateway.account, 1)
        promised = {row.account: row.cumulative for row in rows}

    assert promised[commons] > 0
    assert market.claim.run([commons]) == []
    assert market.claim.claimable([commons]) == {}


def test_a_claim_by_somebody_else_is_noted(market: Platform, tokenizer: Tokenizer) -> None:
    fair.paid_calls(market, tokenizer, 1)
    market.settle.run()
    account = fair.contributors(market)[0]
    amount = market.claim.claimable([account])[account]
    _claim_as_a_stranger(market, account)
    paid = market.claim.run([account])

    assert paid == [Paid(account, amount, amount, UNKNOWN_TRANSACTION)]
    assert market.claim.run([account]) == []
    assert broken(market) == ()


def _claim_as_a_stranger(market: Platform, account: Account) -> None:
    contracts = market.acts.contracts
    gateway = market.gateway.account
    with market.database.read() as transaction:
        rows = list(epochs.payouts_of(transaction, gateway, 1))
    payouts = [Payout(row.account, row.cumulative) for row in rows]
    where = contracts.deployment.payouts
    tree: Tree = payout_tree(contracts.domain("Payouts"), where, gateway, payouts)
    row = next(row for row in rows if row.account == account)
    proof = tree.prove(row.index).path
    write = contracts.write(
        "Payouts", "claim", account, gateway, 1, row.cumulative, row.index, proof
    )
    market.acts.perform({op_id("stranger"): write})


def _until_done(fault: FailingTransport, act: Callable[[], object]) -> int:
    """Run it with ever more patience of the chain; how often it went down."""
    failures = 0
    for patience in range(80):
        fault.left = patience
        try:
            act()
        except ChainUnavailableError:
            failures += 1
        else:
            break
    fault.left = None
    act()
    return failures


@pytest.mark.parametrize("is_heard", [False, True])
def test_settling_and_claiming_go_on_after_an_outage_at_every_request(
    market: Platform, tokenizer: Tokenizer, is_heard: bool
) -> None:
    fee = fair.paid_calls(market, tokenizer, 1)[0].fee
    fault = FailingTransport(fair.direct(market), is_heard=is_heard)
    weak = fair.over(market, fault)
    settled: list[Epoch] = []

    def settle() -> None:
        if not settled:
            settled.append(weak.settle.run())

    outages = _until_done(fault, settle)
    claims: list[Paid] = []
    outages += _until_done(fault, lambda: claims.extend(weak.claim.run(everybody(market))))
    with market.database.read() as transaction:
        noted = epochs.claims_of(transaction, market.gateway.account)

    assert outages > 6
    assert (settled[0].number, settled[0].drawn, settled[0].state) == (1, fee, EpochState.ACTIVE)
    assert market.acts.contracts.read(int, "Payouts", "paid", market.gateway.account) == sum(
        row.amount for row in noted
    )
    assert len(noted) == 4
    assert broken(market) == ()


@pytest.mark.parametrize("reached", [EpochState.CLOSED, EpochState.SETTLED, EpochState.PROPOSED])
def test_an_epoch_goes_on_from_the_step_that_it_reached(
    market: Platform, tokenizer: Tokenizer, reached: EpochState
) -> None:
    """The process died after the chain acted and before the step was noted here."""
    fair.paid_calls(market, tokenizer, 1)
    done = market.settle.run()
    with market.database.transaction() as transaction:
        transaction.connection.exec_driver_sql(
            "UPDATE epochs SET state = ?, payout_number = NULL", (reached.value,)
        )
    again = market.settle.run()

    assert (again.state, again.payout_number, again.drawn) == (
        EpochState.ACTIVE,
        done.payout_number,
        done.drawn,
    )
    assert broken(market) == ()


def test_a_stored_receipt_that_was_altered_settles_nothing(
    market: Platform, tokenizer: Tokenizer
) -> None:
    receipt = fair.paid_calls(market, tokenizer, 1)[0].receipt_id
    with market.database.transaction() as transaction:
        record = bytearray(calls.get(transaction, receipt).record)
        place = record.index(b'"fee":"') + len(b'"fee":"')
        record[place] = ord("9") if record[place] != ord("9") else ord("8")
        transaction.connection.execute(call_receipts.update().values(record=bytes(record)))

    with pytest.raises(VerificationError):
        market.settle.run()
    with market.database.read() as transaction:
        assert epochs.latest(transaction, market.gateway.account) is None


def test_a_stored_digest_that_was_altered_settles_nothing(
    market: Platform, tokenizer: Tokenizer
) -> None:
    fair.paid_calls(market, tokenizer, 2)
    market.settle._close()
    with market.database.transaction() as transaction:
        change = call_receipts.update().where(call_receipts.c.gateway_sequence == 1)
        transaction.connection.execute(change.values(digest="9" * 64))

    with pytest.raises(VerificationError, match="not those of the epoch"):
        market.settle.run()
    assert market.acts.contracts.read(int, "Escrow", "epoch_count", market.gateway.account) == 0


def test_an_epoch_of_free_calls_moves_no_money(market: Platform, tokenizer: Tokenizer) -> None:
    epochs_made = []
    for is_paid in (False, True, False):
        if is_paid:
            fair.paid_calls(market, tokenizer, 1)
        else:
            fair.free_call(market, tokenizer)
        epochs_made.append(market.settle.run())
    first, paid, free = epochs_made

    assert [one.state for one in epochs_made] == [EpochState.ACTIVE] * 3
    assert [one.drawn > 0 for one in epochs_made] == [False, True, False]
    assert [one.payout_number for one in epochs_made] == [None, 1, 2]
    assert first.promised == 0
    assert free.payouts_root == paid.payouts_root
    assert market.claim.run(everybody(market))
    assert broken(market) == ()


def test_many_payers_make_several_epochs(market: Platform, tokenizer: Tokenizer) -> None:
    desk = fair.desk(market, tokenizer)
    fees = Wei(0)
    receipts = []
    payers = []
    for number in range(3):
        payer = market.account(f"user/payer-{number}", AccountKind.USER, f"payer {number}")
        market.fund.faucet(payer.address, fair.DEPOSITED, "1")
        market.fund.deposit(payer, fair.DEPOSITED, "1")
        made = fair.call(desk, payer.address)
        fees = Wei(fees + made.fee)
        receipts.append(made.receipt_id)
        payers.append(payer.address)
    fair.attribute(market, receipts)
    with market.database.read() as transaction:
        pairs = list(calls.pairs(transaction, market.gateway.account, 1, 10))
    epoch = market.settle.run()
    for payer_address in payers:
        market.fund.refresh(payer_address)

    assert [pair.call.payer for pair in settling.fitting(pairs, 2)] == payers[:2]
    assert (epoch.size, epoch.drawn) == (3, fees)
    identity = market.check_identity.run()
    assert identity.broken == ()


@pytest.mark.slow
@pytest.mark.parametrize("is_heard", [False, True])
def test_a_deposit_while_a_settlement_waits_for_the_chain_does_not_stop_it(
    market: Platform, tokenizer: Tokenizer, is_heard: bool
) -> None:
    """The voucher in what was queued is not the newest one any more."""
    fault = FailingTransport(fair.direct(market), is_heard=is_heard)
    weak = fair.over(market, fault)
    payer = fair.payer(market)
    stopped = 0
    for patience in range(60):
        fair.paid_calls(market, tokenizer, 1)
        fault.left = patience
        try:
            weak.settle.run()
        except ChainUnavailableError:
            stopped += 1
        else:
            break
        fault.left = None
        market.fund.deposit(payer, Wei(1 + patience), f"meanwhile {patience}")
        assert market.settle.run().state is EpochState.ACTIVE
    fault.left = None

    assert stopped > 5
    assert broken(market) == ()


def test_the_check_is_not_alarmed_by_what_others_may_do(
    market: Platform, tokenizer: Tokenizer
) -> None:
    """Deposit for any payer, claim for any account, and ask while an epoch is under way."""
    fair.paid_calls(market, tokenizer, 1)
    market.settle.run()
    (first, *_) = fair.contributors(market)
    somebody = replace(market.claim, database=_elsewhere(market))
    assert [one.account for one in somebody.run([first])] == [first]
    contracts = market.acts.contracts
    payer = fair.payer(market)
    write = contracts.write(
        "Escrow", "deposit", payer.address, market.gateway.account, 5, "a" * 64, acting=payer.label
    )
    market.acts.perform({op_id("past the books"): write})
    fair.paid_calls(market, tokenizer, 1)
    market.settle._close()

    found = operations.identity(market, Nothing())
    noted = operations.identity(market, Nothing())
    assert (found.broken, noted.broken) == ((), ())
    assert 0 == found.database.claimed < found.chain.paid == noted.database.claimed
    assert found.database.deposited + 5 == found.chain.deposited == noted.database.deposited


def _elsewhere(market: Platform) -> Database:
    """The same books, in which nothing is noted here."""
    copy = market.home.root / "elsewhere.db"
    copy_sqlite(market.home.database, copy)
    return Database(copy)
