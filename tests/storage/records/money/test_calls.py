import threading

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from openledger.core.errors import ConflictError, InsufficientBalanceError, NotFoundError
from openledger.core.types import Account, Wei
from openledger.storage.database import Database
from openledger.storage.records.money import balances, calls
from openledger.storage.records.money.balances import HoldState
from openledger.storage.records.money.calls import NO_PREVIOUS, Metered, Statement
from tests.storage.rows import (
    GATEWAY,
    OTHER,
    PAYER,
    QuickDatabase,
    charge,
    digest_of,
    fund,
    hold_of,
    next_call,
    receipt_of,
    statement_of,
    sums,
)


def test_the_first_receipt_has_number_one(database: Database) -> None:
    with database.read() as transaction:
        at = calls.tip(transaction, GATEWAY, PAYER)

    assert (at.gateway_sequence, at.payer_sequence, at.previous) == (1, 1, NO_PREVIOUS)


def test_receipts_continue_the_chain(database: Database) -> None:
    with database.transaction() as transaction:
        fund(transaction, 100)
        fund(transaction, 100, OTHER)
        charge(transaction, 1, fee=10)
        charge(transaction, 2, fee=20, payer=OTHER)
        last = charge(transaction, 3, fee=30, key="laptop")

        assert (last.gateway_sequence, last.payer_sequence) == (3, 2)
        assert (last.gateway_total, last.payer_total, last.key_total) == (60, 40, 30)
        assert last.previous == digest_of(2)
        assert calls.get(transaction, receipt_of(3)) == last
        order = [call.id for call in calls.in_order(transaction, GATEWAY, 2)]
        assert order == [receipt_of(2), receipt_of(3)]
        assert [call.id for call in calls.of_payer(transaction, PAYER)] == ["rcp_3", "rcp_1"]


def test_a_receipt_charges_its_hold_once(database: Database) -> None:
    with database.transaction() as transaction:
        fund(transaction, 100)
        balances.open_hold(transaction, hold_of(1, 80), 1)
        new = next_call(transaction, 1, fee=30)
        call = calls.append(transaction, new, 2)

        assert calls.append(transaction, new, 3) == call
        has = balances.position(transaction, GATEWAY, PAYER)
        assert (has.free, has.fees, has.held) == (70, 30, 0)
        hold = balances.find_hold(transaction, receipt_of(1))
        assert hold is not None
        assert hold.state is HoldState.CHARGED
        with pytest.raises(ConflictError, match="final"):
            calls.append(transaction, msgspec.structs.replace(new, record=b"else"), 3)


def test_a_receipt_needs_an_open_hold_that_covers_it(database: Database) -> None:
    with database.transaction() as transaction:
        fund(transaction, 100)
        with pytest.raises(ConflictError, match="no hold covers"):
            calls.append(transaction, next_call(transaction, 1, fee=0), 2)
        balances.open_hold(transaction, hold_of(1, 10), 1)
        with pytest.raises(ConflictError, match="no hold covers"):
            calls.append(transaction, next_call(transaction, 1, fee=11), 2)
        balances.release_hold(transaction, receipt_of(1), 2)
        with pytest.raises(ConflictError, match="is closed"):
            calls.append(transaction, next_call(transaction, 1, fee=10), 3)


@pytest.mark.parametrize(
    "change",
    [
        {"gateway_sequence": 2},
        {"payer_sequence": 2},
        {"gateway_total": Wei(11)},
        {"payer_total": Wei(9)},
        {"previous": digest_of(5)},
    ],
)
def test_a_receipt_that_does_not_continue_the_chain_is_refused(
    sqlite: Database, change: dict[str, object]
) -> None:
    with sqlite.transaction() as transaction:
        fund(transaction, 100)
        balances.open_hold(transaction, hold_of(1, 10), 1)
        new = msgspec.structs.replace(next_call(transaction, 1, fee=10), **change)
    with pytest.raises(ConflictError, match="continue"), sqlite.transaction() as transaction:
        calls.append(transaction, new, 2)

    with sqlite.read() as transaction:
        assert balances.position(transaction, GATEWAY, PAYER).held == 10
        with pytest.raises(NotFoundError):
            calls.get(transaction, receipt_of(1))


def test_a_free_call_has_a_receipt_too(database: Database) -> None:
    with database.transaction() as transaction:
        fund(transaction, 100)
        charge(transaction, 1, fee=0)

        assert calls.tip(transaction, GATEWAY, PAYER).gateway_sequence == 2


def test_a_statement_is_final(database: Database) -> None:
    with database.transaction() as transaction:
        fund(transaction, 100)
        charge(transaction, 1, fee=10)

        assert calls.statement(transaction, receipt_of(1)) is None
        assert calls.state(transaction, statement_of(1))
        assert not calls.state(transaction, statement_of(1))
        assert calls.statement(transaction, receipt_of(1)) == statement_of(1)
        other = Statement(receipt_of(1), digest_of(9), b"else", 20)
        with pytest.raises(ConflictError):
            calls.state(transaction, other)


def test_a_statement_needs_its_receipt(database: Database) -> None:
    with pytest.raises(ConflictError), database.transaction() as transaction:
        calls.state(transaction, statement_of(1))


def test_what_waits_for_its_statement_comes_in_order(database: Database) -> None:
    with database.transaction() as transaction:
        fund(transaction, 100)
        for number in range(1, 6):
            charge(transaction, number, fee=1)
        for number in (1, 2, 4):
            calls.state(transaction, statement_of(number))

        waiting = [call.id for call in calls.pending(transaction, GATEWAY)]
        assert waiting == [receipt_of(3), receipt_of(5)]
        assert [call.id for call in calls.pending(transaction, GATEWAY, limit=1)] == ["rcp_3"]


def test_whole_receipts_end_at_the_first_gap(database: Database) -> None:
    with database.transaction() as transaction:
        fund(transaction, 100)
        for number in range(1, 6):
            charge(transaction, number, fee=1)
        for number in (1, 2, 4):
            calls.state(transaction, statement_of(number))

        def whole(first: int, limit: int = 10) -> list[int]:
            found = calls.pairs(transaction, GATEWAY, first, limit)
            return [pair.call.gateway_sequence for pair in found]

        assert (whole(1), whole(2), whole(3), whole(4), whole(1, 1)) == ([1, 2], [2], [], [4], [1])
        pair = next(calls.pairs(transaction, GATEWAY, 2, 1))
        assert pair.statement == statement_of(2)
        assert pair.call == calls.get(transaction, receipt_of(2))
        both = [
            (one.call.digest, one.statement.digest)
            for one in calls.pairs(transaction, GATEWAY, 1, 2)
        ]
        assert calls.digests(transaction, GATEWAY, 1, 2) == both
        assert calls.digests(transaction, GATEWAY, 2, 1) == both[1:]


def test_metered_calls_come_in_order_with_and_without_statement(database: Database) -> None:
    with database.transaction() as transaction:
        fund(transaction, 100)
        for number in range(1, 4):
            charge(transaction, number, fee=number)
        calls.state(transaction, statement_of(2))

        assert list(calls.metered(transaction, GATEWAY)) == [
            Metered(Wei(1), b"record 1", None),
            Metered(Wei(2), b"record 2", b"shares 2"),
            Metered(Wei(3), b"record 3", None),
        ]
        assert list(calls.metered(transaction, OTHER)) == []


def test_private_bytes_are_erased_after_their_time(database: Database) -> None:
    with database.transaction() as transaction:
        fund(transaction, 100)
        charge(transaction, 1, fee=1, now=10)
        charge(transaction, 2, fee=1, now=20)
        assert calls.erase_private(transaction, before=20) == 0  # nobody is paid for it yet
        calls.state(transaction, statement_of(1))

        assert calls.erase_private(transaction, before=20) == 1
        assert calls.erase_private(transaction, before=20) == 0
        private = [call.private for call in calls.in_order(transaction, GATEWAY)]
        assert private == [None, b"prompt and answer"]


def test_an_unknown_receipt_is_said_to_be_unknown(database: Database) -> None:
    with database.read() as transaction:
        assert calls.find(transaction, receipt_of(1)) is None
        with pytest.raises(NotFoundError, match="rcp_1"):
            calls.get(transaction, receipt_of(1))


def test_calls_at_the_same_time_share_neither_money_nor_numbers(database: Database) -> None:
    refused: list[int] = []

    def call(start: int, payer: Account) -> None:
        for number in range(start, start + 5):
            try:
                with database.transaction() as transaction:
                    balances.open_hold(transaction, hold_of(number, 10, payer), 1)
            except InsufficientBalanceError:
                refused.append(number)
                continue
            with database.transaction() as transaction:
                calls.append(transaction, next_call(transaction, number, 10, payer), 2)

    with database.transaction() as transaction:
        fund(transaction, 70)
        fund(transaction, 1000, OTHER)
    arguments = [(10, PAYER), (20, PAYER), (30, OTHER)]
    threads = [threading.Thread(target=call, args=one) for one in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(refused) == 3
    with database.read() as transaction:
        assert sums(transaction).receipts == 12
        assert balances.position(transaction, GATEWAY, PAYER).free == 0


class CallMachine(RuleBasedStateMachine):
    """Two payers hold, are charged, give back and deposit in any order.

    Free balance and voucher never fall below zero, and numbers never have a gap.
    """

    def __init__(self) -> None:
        super().__init__()
        self.database = QuickDatabase()
        self.numbers = 0
        self.block = 0
        self.deposits: dict[Account, int] = {PAYER: 0, OTHER: 0}
        self.fees: dict[Account, int] = {PAYER: 0, OTHER: 0}
        self.open: dict[int, tuple[Account, int]] = {}
        self.charged: list[int] = []

    def teardown(self) -> None:
        self.database.close()

    def _free(self, payer: Account) -> int:
        held = sum(amount for who, amount in self.open.values() if who == payer)
        return self.deposits[payer] - self.fees[payer] - held

    @rule(payer=st.sampled_from([PAYER, OTHER]), amount=st.integers(1, 10**20))
    def deposit(self, payer: Account, amount: int) -> None:
        self.deposits[payer] += amount
        self.block += 1
        with self.database.transaction() as transaction:
            fund(transaction, self.deposits[payer], payer, self.block)

    @rule(payer=st.sampled_from([PAYER, OTHER]), beyond=st.sampled_from([-(10**9), -1, 0, 1]))
    def hold(self, payer: Account, beyond: int) -> None:
        """At the edge of what is free, on both sides of it."""
        amount = max(0, self._free(payer) + beyond)
        fits = amount <= self._free(payer)
        self.numbers += 1
        try:
            with self.database.transaction() as transaction:
                balances.open_hold(transaction, hold_of(self.numbers, amount, payer), 1)
        except InsufficientBalanceError:
            assert not fits
        else:
            assert fits
            self.open[self.numbers] = (payer, amount)

    @precondition(lambda self: self.open)
    @rule(choice=st.integers(0, 99), part=st.integers(0, 4), crash=st.booleans())
    def charge(self, choice: int, part: int, crash: bool) -> None:
        number = sorted(self.open)[choice % len(self.open)]
        payer, amount = self.open[number]
        fee = amount * part // 4
        with self.database.transaction() as transaction:
            point = transaction.connection.begin_nested()
            calls.append(transaction, next_call(transaction, number, fee, payer), 2)
            if crash:
                point.rollback()
                return
        del self.open[number]
        self.fees[payer] += fee
        self.charged.append(number)

    @precondition(lambda self: self.open)
    @rule(choice=st.integers(0, 99))
    def give_back(self, choice: int) -> None:
        number = sorted(self.open)[choice % len(self.open)]
        with self.database.transaction() as transaction:
            assert balances.release_hold(transaction, receipt_of(number), 3)
        del self.open[number]

    @precondition(lambda self: self.charged)
    @rule(choice=st.integers(0, 99))
    def charge_again(self, choice: int) -> None:
        number = self.charged[choice % len(self.charged)]
        with self.database.transaction() as transaction:
            new = next_call(transaction, number, 0)
            stored = calls.append(transaction, new, 4)
            assert stored.id == receipt_of(number)

    @invariant()
    def balances_are_the_model_and_never_negative(self) -> None:
        with self.database.read() as transaction:
            for payer in (PAYER, OTHER):
                has = balances.position(transaction, GATEWAY, payer)
                assert has.free == has.voucher_left == self._free(payer) >= 0
                assert has.fees == self.fees[payer]

    @invariant()
    def numbers_have_no_gap_and_sums_hold(self) -> None:
        with self.database.read() as transaction:
            found = sums(transaction)
            order = [call.id for call in calls.in_order(transaction, GATEWAY)]
        assert order == [receipt_of(number) for number in self.charged]
        assert (found.receipts, found.fees) == (len(order), sum(self.fees.values()))
        assert found.held == sum(amount for _, amount in self.open.values())


CallMachine.TestCase.settings = settings(max_examples=10, stateful_step_count=14, deadline=None)
TestCalls = CallMachine.TestCase
