import msgspec
import pytest

from openledger.core.errors import ConflictError, InsufficientBalanceError
from openledger.core.types import Wei
from openledger.storage.database import Database
from openledger.storage.records.money import balances
from openledger.storage.records.money.balances import EscrowBalance, HoldState, VoucherRow
from tests.storage.rows import (
    GATEWAY,
    OTHER,
    PAYER,
    charge,
    digest_of,
    fund,
    hold_of,
    receipt_of,
)


def _voucher(limit: int, channel: int = 1) -> VoucherRow:
    return VoucherRow(GATEWAY, PAYER, digest_of(channel), b"channel", Wei(limit), "signed", 2)


def test_who_never_came_has_nothing(database: Database) -> None:
    with database.read() as transaction:
        has = balances.position(transaction, GATEWAY, PAYER)

    assert (has.free, has.voucher_left, has.fees, has.held) == (0, 0, 0, 0)
    with database.transaction() as transaction:
        assert balances.position(transaction, GATEWAY, PAYER) == has


def test_free_is_what_nobody_used_or_reserved(database: Database) -> None:
    with database.transaction() as transaction:
        fund(transaction, 1000)
        charge(transaction, 1, fee=100)
        balances.open_hold(transaction, hold_of(2, 50), 11)
        settled = EscrowBalance(GATEWAY, PAYER, Wei(1000), Wei(60), Wei(200), Wei(30), block=5)
        balances.set_escrow(transaction, settled)

        has = balances.position(transaction, GATEWAY, PAYER)
        assert has.free == 1000 - 200 - 30 - 100 - 50
        assert has.voucher_left == 1000 - 100 - 50
        assert balances.position(transaction, GATEWAY, OTHER).free == 0


def test_an_older_block_does_not_overwrite_a_newer_one(database: Database) -> None:
    with database.transaction() as transaction:
        fund(transaction, 1000, block=9)
        fund(transaction, 500, block=8)

        assert balances.position(transaction, GATEWAY, PAYER).escrow.deposited == 1000


@pytest.mark.parametrize(("deposit", "limit"), [(99, 100), (100, 99)])
def test_neither_balance_nor_voucher_is_overdrawn(
    database: Database, deposit: int, limit: int
) -> None:
    with database.transaction() as transaction:
        zero = Wei(0)
        escrow = EscrowBalance(GATEWAY, PAYER, Wei(deposit), zero, zero, zero, block=1)
        balances.set_escrow(transaction, escrow)
        balances.set_voucher(transaction, _voucher(limit))
        with pytest.raises(InsufficientBalanceError, match="99 wei left"):
            balances.open_hold(transaction, hold_of(1, 100), 2)
        balances.open_hold(transaction, hold_of(1, 99), 2)
        with pytest.raises(InsufficientBalanceError, match="the 0 wei left"):
            balances.open_hold(transaction, hold_of(2, 1), 2)


def test_a_hold_is_opened_once(database: Database) -> None:
    with database.transaction() as transaction:
        fund(transaction, 100)
        held = balances.open_hold(transaction, hold_of(1, 60), 2)

        assert balances.open_hold(transaction, hold_of(1, 60), 3) == held
        assert balances.find_hold(transaction, receipt_of(1)) == held
        assert balances.position(transaction, GATEWAY, PAYER).held == 60
        with pytest.raises(ConflictError, match="another call"):
            balances.open_hold(transaction, hold_of(1, 61), 3)


def test_a_released_hold_is_free_again(database: Database) -> None:
    with database.transaction() as transaction:
        fund(transaction, 100)
        balances.open_hold(transaction, hold_of(1, 60), 2)

        assert balances.release_hold(transaction, receipt_of(1), 3)
        assert not balances.release_hold(transaction, receipt_of(1), 4)
        assert balances.position(transaction, GATEWAY, PAYER).free == 100
        found = balances.find_hold(transaction, receipt_of(1))
        assert found is not None
        assert (found.state, found.closed_at) == (HoldState.RELEASED, 3)


def test_holds_of_dead_processes_are_released(database: Database) -> None:
    with database.transaction() as transaction:
        fund(transaction, 100)
        balances.open_hold(transaction, hold_of(1, 10, expires_at=50), 2)
        balances.open_hold(transaction, hold_of(2, 20, expires_at=60), 2)

        assert [hold.receipt for hold in balances.release_expired(transaction, 50)] == ["rcp_1"]
        assert balances.position(transaction, GATEWAY, PAYER).held == 20


def test_only_a_higher_voucher_of_a_channel_counts(database: Database) -> None:
    with database.transaction() as transaction:
        balances.set_voucher(transaction, _voucher(100))

        assert balances.set_voucher(transaction, _voucher(90)).limit == 100
        assert balances.set_voucher(transaction, _voucher(110)).limit == 110
        stored = balances.voucher(transaction, GATEWAY, PAYER)
        assert stored == _voucher(110)


def test_a_new_channel_must_cover_what_the_old_one_does(database: Database) -> None:
    with database.transaction() as transaction:
        fund(transaction, 100)
        charge(transaction, 1, fee=30)
        balances.open_hold(transaction, hold_of(2, 20), 11)

        with pytest.raises(ConflictError, match="does not cover"):
            balances.set_voucher(transaction, _voucher(49, channel=2))
        assert balances.set_voucher(transaction, _voucher(50, channel=2)).limit == 50
        assert balances.position(transaction, GATEWAY, PAYER).voucher_left == 0


def test_what_a_payer_and_a_key_spent_since_a_time(database: Database) -> None:
    with database.transaction() as transaction:
        fund(transaction, 1000)
        charge(transaction, 1, fee=1, key="laptop", now=10)
        charge(transaction, 2, fee=20, key="phone", now=20)
        charge(transaction, 3, fee=300, key="laptop", now=30)
        balances.open_hold(transaction, hold_of(4, 5, key="laptop"), 31)

        def payer_spent(since: int) -> int:
            return balances.payer_spent(transaction, GATEWAY, PAYER, since)

        def key_spent(key: str, since: int = 0) -> int:
            return balances.key_spent(transaction, GATEWAY, key, since)

        assert [payer_spent(since) for since in (0, 11, 21, 31)] == [326, 325, 305, 5]
        assert [key_spent("laptop", since) for since in (0, 11, 31)] == [306, 305, 5]
        assert [key_spent("phone"), key_spent("nobody")] == [20, 0]


def test_the_newest_of_two_requests_cannot_use_the_same_money(database: Database) -> None:
    with database.transaction() as transaction:
        fund(transaction, 100)
    with database.transaction() as transaction:
        balances.open_hold(transaction, hold_of(1, 60), 2)
    with pytest.raises(InsufficientBalanceError), database.transaction() as transaction:
        balances.open_hold(transaction, hold_of(2, 60), 2)


def test_payers_do_not_share_their_money(database: Database) -> None:
    with database.transaction() as transaction:
        fund(transaction, 100)
        fund(transaction, 10, payer=OTHER)
        balances.open_hold(transaction, hold_of(1, 100), 2)

        with pytest.raises(InsufficientBalanceError):
            balances.open_hold(transaction, hold_of(2, 11, OTHER), 2)
        balances.open_hold(transaction, hold_of(2, 10, OTHER), 2)


def test_a_hold_of_an_exiting_payer_is_refused(database: Database) -> None:
    with database.transaction() as transaction:
        fund(transaction, 100)
        has = balances.position(transaction, GATEWAY, PAYER).escrow
        leaving = msgspec.structs.replace(has, exiting=Wei(100), block=2)
        balances.set_escrow(transaction, leaving)

        with pytest.raises(InsufficientBalanceError):
            balances.open_hold(transaction, hold_of(1, 1), 3)
