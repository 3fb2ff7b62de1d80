import msgspec
import pytest

from openledger.core.errors import ConflictError, NotFoundError, VerificationError
from openledger.core.types import Account, Wei
from openledger.storage.database import Database, Transaction
from openledger.storage.records.money import calls, epochs, totals
from openledger.storage.records.money.epochs import ClaimRow, Epoch, EpochState, NewEpoch
from openledger.storage.records.money.totals import Progress
from openledger.storage.tables import call_receipts, payer_books, payouts
from openledger.storage.tables import epochs as epoch_table
from tests.storage.rows import (
    GATEWAY,
    OTHER,
    PAYER,
    charge,
    digest_of,
    fund,
    statement_of,
    sums,
)

EARNED: list[tuple[Account, Wei]] = [(PAYER, Wei(10)), (OTHER, Wei(20))]
NEW = NewEpoch(GATEWAY, 1, 3, digest_of(1), Wei(30), digest_of(2), Wei(30))


def _settle_ready(transaction: Transaction, first: int = 1, size: int = 3) -> None:
    fund(transaction, 1000)
    for number in range(first, first + size):
        charge(transaction, number, fee=10)
        calls.state(transaction, statement_of(number))


def _closed(transaction: Transaction) -> Epoch:
    _settle_ready(transaction)
    return epochs.close(transaction, NEW, EARNED, 5)


def test_an_epoch_is_closed_once(database: Database) -> None:
    with database.transaction() as transaction:
        assert epochs.latest(transaction, GATEWAY) is None
        assert epochs.earned_so_far(transaction, GATEWAY) == {}
        assert epochs.next_first(transaction, GATEWAY) == 1
        made = _closed(transaction)

        assert epochs.close(transaction, NEW, EARNED, 6) == made
        assert (made.number, made.state) == (1, EpochState.CLOSED)
        assert epochs.next_first(transaction, GATEWAY) == 4
        assert epochs.earned_so_far(transaction, GATEWAY) == dict(EARNED)
        second = epochs.payout(transaction, GATEWAY, 1, OTHER)
        assert second is not None
        assert (second.index, second.cumulative) == (1, 20)
        assert epochs.payout(transaction, GATEWAY, 1, GATEWAY) is None
        with pytest.raises(ConflictError, match="epoch 1 starts at receipt 1"):
            epochs.close(transaction, msgspec.structs.replace(NEW, root=digest_of(9)), EARNED, 6)


def test_epochs_follow_each_other(database: Database) -> None:
    with database.transaction() as transaction:
        first = _closed(transaction)
        _settle_ready(transaction, first=4, size=2)
        new = NewEpoch(GATEWAY, 4, 2, digest_of(3), Wei(20), digest_of(4), Wei(50))
        earned = [(PAYER, Wei(10)), (OTHER, Wei(40))]
        second = epochs.close(transaction, new, earned, 8)

        assert second.number == 2
        assert epochs.list_all(transaction, GATEWAY) == [first, second]
        assert epochs.holding(transaction, GATEWAY, 3) == first
        assert epochs.holding(transaction, GATEWAY, 5) == second
        assert epochs.holding(transaction, GATEWAY, 6) is None
        assert sums(transaction).promised == 50


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"first": 2, "size": 2}, "starts at receipt 1"),
        ({"size": 4}, "only 3 of 4"),
        ({"size": 0}, "only 0 of 0"),
        ({"drawn": Wei(31)}, "its receipts cost 30"),
        ({"promised": Wei(31)}, "payouts sum to 30"),
        ({"size": 2, "drawn": Wei(20)}, "funded 20"),
    ],
)
def test_an_epoch_whose_sums_do_not_hold_is_refused(
    sqlite: Database, change: dict[str, object], reason: str
) -> None:
    with sqlite.transaction() as transaction:
        _settle_ready(transaction)

        with pytest.raises(ConflictError, match=reason):
            epochs.close(transaction, msgspec.structs.replace(NEW, **change), EARNED, 5)
        assert epochs.list_all(transaction, GATEWAY) == []


def test_a_receipt_without_statement_is_in_no_epoch(database: Database) -> None:
    with database.transaction() as transaction:
        _settle_ready(transaction, size=2)
        charge(transaction, 3, fee=10)

        with pytest.raises(ConflictError, match="only 2 of 3"):
            epochs.close(transaction, NEW, EARNED, 5)


def test_no_payout_may_fall(database: Database) -> None:
    with database.transaction() as transaction:
        _closed(transaction)
        _settle_ready(transaction, first=4, size=2)
        new = NewEpoch(GATEWAY, 4, 2, digest_of(3), Wei(20), digest_of(4), Wei(50))

        for earned in ([(PAYER, Wei(9)), (OTHER, Wei(41))], [(OTHER, Wei(50))]):
            with pytest.raises(ConflictError, match="would fall"):
                epochs.close(transaction, new, earned, 8)


def test_an_epoch_moves_on_and_never_back(database: Database) -> None:
    with database.transaction() as transaction:
        _closed(transaction)

        def move(state: EpochState, number: int | None = None) -> Epoch:
            return epochs.advance(transaction, GATEWAY, 1, state, 9, payout_number=number)

        assert move(EpochState.SETTLED).state is EpochState.SETTLED
        with pytest.raises(ConflictError, match="number in Payouts is known"):
            move(EpochState.ACTIVE)
        active = move(EpochState.ACTIVE, 4)
        assert (active.state, active.payout_number) == (EpochState.ACTIVE, 4)
        assert move(EpochState.PROPOSED) == active
        assert move(EpochState.ACTIVE, 4) == active
        with pytest.raises(ConflictError, match="number 4 in Payouts"):
            move(EpochState.ACTIVE, 5)
        with pytest.raises(NotFoundError):
            epochs.get(transaction, GATEWAY, 2)


def test_claims_are_noted_once(database: Database) -> None:
    row = ClaimRow(GATEWAY, PAYER, 4, Wei(10), Wei(10), digest_of(7), 9)
    with database.transaction() as transaction:
        _closed(transaction)

        assert epochs.note_claim(transaction, row)
        assert not epochs.note_claim(transaction, msgspec.structs.replace(row, created_at=10))
        assert epochs.claims_of(transaction, GATEWAY) == [row]
        assert epochs.claims_of(transaction, GATEWAY, OTHER) == []
        with pytest.raises(ConflictError, match="another amount"):
            epochs.note_claim(transaction, msgspec.structs.replace(row, amount=Wei(11)))
        found = sums(transaction)
        assert (found.receipts, found.fees, found.drawn) == (3, 30, 30)
        assert (found.promised, found.claimed, found.deposited) == (30, 10, 1000)


def test_more_claimed_than_promised_is_found(database: Database) -> None:
    row = ClaimRow(GATEWAY, PAYER, 4, Wei(31), Wei(31), digest_of(7), 9)
    with database.transaction() as transaction:
        _closed(transaction)
        epochs.note_claim(transaction, row)

        with pytest.raises(VerificationError, match="do not agree"):
            sums(transaction)


def test_a_changed_row_is_found(sqlite: Database) -> None:
    with sqlite.transaction() as transaction:
        _closed(transaction)
        connection = transaction.connection
        for table, column, message in (
            (payouts, "cumulative", "payouts do not sum"),
            (payer_books, "total", "book of"),
            (call_receipts, "fee", "continue the sums"),
        ):
            point = connection.begin_nested()
            connection.execute(table.update().values({column: Wei(29)}))
            with pytest.raises(VerificationError, match=message):
                sums(transaction)
            point.rollback()
        assert sums(transaction).claimed == 0


def test_what_the_contracts_did_not_take_yet_is_not_counted(database: Database) -> None:
    with database.transaction() as transaction:
        made = _closed(transaction)
        waiting = totals.totals(transaction, GATEWAY, Progress(0, None))
        settled = totals.totals(transaction, GATEWAY, Progress(1, None))
        active = totals.totals(transaction, GATEWAY, Progress(1, made.payouts_root))

        assert (waiting.drawn, waiting.promised, waiting.fees) == (0, 0, 30)
        assert (settled.drawn, settled.promised) == (30, 0)
        assert (active.drawn, active.promised) == (30, 30)
        for unknown in (Progress(2, None), Progress(1, digest_of(99))):
            with pytest.raises(VerificationError, match="its books do not"):
                totals.totals(transaction, GATEWAY, unknown)


def test_an_epoch_that_promises_other_than_was_drawn_is_found(sqlite: Database) -> None:
    with sqlite.transaction() as transaction:
        _closed(transaction)
        transaction.connection.execute(epoch_table.update().values(promised=Wei(31)))
        with pytest.raises(VerificationError, match="all that was drawn"):
            sums(transaction)
