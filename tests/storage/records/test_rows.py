import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openledger.core.errors import ConflictError
from openledger.storage.database import Database
from openledger.storage.records.rows import insert_new, insert_once, row_id
from openledger.storage.tables import accounts

ROW = {
    "address": "0x" + "a" * 40,
    "label": "anna",
    "kind": "user",
    "display_name": "Anna",
    "created_at": 1,
}


@given(st.integers(0, 2**53))
def test_a_row_id_is_a_uuid_of_version_7(now: int) -> None:
    made = uuid.UUID(row_id(now))

    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert made.int >> 80 == now // 1000


def test_row_ids_sort_by_time() -> None:
    ids = [row_id(now) for now in range(0, 10_000_000, 1000)]

    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)


def test_the_same_row_is_written_once(database: Database) -> None:
    with database.transaction() as transaction:
        assert insert_once(transaction, accounts, ROW)
        assert not insert_once(transaction, accounts, ROW)
        assert not insert_once(transaction, accounts, ROW | {"created_at": 2}, {"created_at"})
        with pytest.raises(ConflictError, match="another display_name"):
            insert_once(transaction, accounts, ROW | {"display_name": "Anne"})
        with pytest.raises(ConflictError, match="unique values"):
            insert_once(transaction, accounts, ROW | {"address": "0x" + "b" * 40})


def test_many_rows_may_hold_known_ones(database: Database) -> None:
    rows = [ROW | {"address": f"0x{n:040x}", "label": str(n)} for n in range(1200)]
    with database.transaction() as transaction:
        insert_new(transaction, accounts, rows[:700])
        insert_new(transaction, accounts, rows)
        insert_new(transaction, accounts, [])

        assert len(transaction.connection.execute(accounts.select()).all()) == 1200
