"""Writing a row once, and reading rows back as records.

Every write of this package may be repeated: the unique constraints decide, a repeat with the same
values changes nothing, and a repeat with others is a `ConflictError`.
"""

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from enum import Enum
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from sqlalchemy import RowMapping, Select, Table
from sqlalchemy.dialects import postgresql, sqlite

from openledger.core.errors import ConflictError, NotFoundError
from openledger.storage.database import Transaction

Row = TypeVar("Row", bound=msgspec.Struct)

_MICROSECONDS_PER_MILLISECOND = 1_000
_ROWS_AT_ONCE = 500


def row_id(now: int) -> str:
    """A new UUID of version 7 (RFC 9562): 48 bits of milliseconds, then chance.

    Args:
        now: microseconds since 1970.
    """
    high = (now // _MICROSECONDS_PER_MILLISECOND) << 80 | secrets.randbits(80)
    versioned = high & ~(0xF << 76) | 0x7 << 76
    return str(UUID(int=versioned & ~(0b11 << 62) | 0b10 << 62))


def values_of(record: msgspec.Struct) -> dict[str, Any]:
    """A record's fields as column values; a state becomes its word."""
    fields = {name: getattr(record, name) for name in record.__struct_fields__}
    # An enum goes by its value: drivers differ in what they make of the member itself.
    return {
        name: value.value if isinstance(value, Enum) else value for name, value in fields.items()
    }


def insert_new(transaction: Transaction, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, silently leaving out those that any unique constraint knows already."""
    maker = sqlite.insert if transaction.is_sqlite else postgresql.insert
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        batch = list(rows[start : start + _ROWS_AT_ONCE])
        transaction.connection.execute(maker(table).on_conflict_do_nothing(), batch)


def insert_once(
    transaction: Transaction, table: Table, row: Mapping[str, Any], ignore: Iterable[str] = ()
) -> bool:
    """Insert a row, or find that the very same row stands there.

    Args:
        transaction: where.
        table: its primary key decides which row is meant.
        row: every value.
        ignore: columns that a repeat may give otherwise, such as the time.

    Returns:
        Whether the row is new.

    Raises:
        ConflictError: another row stands there, or another unique value is taken.
    """
    maker = sqlite.insert if transaction.is_sqlite else postgresql.insert
    statement = maker(table).values(dict(row)).on_conflict_do_nothing()
    counted = statement.execution_options(preserve_rowcount=True)
    if transaction.connection.execute(counted).rowcount:
        return True
    keys = [column == row[column.name] for column in table.primary_key]
    found = transaction.connection.execute(table.select().where(*keys)).mappings().first()
    name = ", ".join(str(row[column.name]) for column in table.primary_key)
    if found is None:
        raise ConflictError(f"{name} cannot enter {table.name}: another row has its unique values")
    compared = row.keys() - set(ignore)
    other = sorted(column for column in compared if found[column] != row[column])
    if other:
        raise ConflictError(f"{name} stands in {table.name} already, with another {other[0]}")
    return False


def held(transaction: Transaction, query: Select[Any], *, skip: bool = False) -> Select[Any]:
    """The query, holding its rows until a writing transaction ends (SQLite holds all anyway).

    Args:
        transaction: where; one that only reads holds nothing.
        query: what to hold.
        skip: leave out rows that another transaction holds.
    """
    return query.with_for_update(skip_locked=skip) if transaction.may_write else query


def first(transaction: Transaction, query: Select[Any], kind: type[Row]) -> Row | None:
    """The first row as a record, or None."""
    found = transaction.connection.execute(query.limit(1)).mappings().first()
    return None if found is None else _record(found, kind)


def one(transaction: Transaction, query: Select[Any], kind: type[Row], name: str) -> Row:
    """The first row as a record.

    Raises:
        NotFoundError: none; `name` says what was looked for.
    """
    found = first(transaction, query, kind)
    if found is None:
        raise NotFoundError(f"there is no {name}")
    return found


def every(transaction: Transaction, query: Select[Any], kind: type[Row]) -> list[Row]:
    """All rows as records."""
    return [_record(row, kind) for row in transaction.connection.execute(query).mappings()]


def stream(
    transaction: Transaction, query: Select[Any], kind: type[Row], at_once: int = _ROWS_AT_ONCE
) -> Iterator[Row]:
    """All rows as records, so many at a time in memory."""
    few = query.execution_options(yield_per=at_once)
    # A reader may stop in the middle; PostgreSQL's cursor must not outlive it.
    with closing(transaction.connection.execute(few)) as result:
        for row in result.mappings():
            yield _record(row, kind)


def _record(row: RowMapping, kind: type[Row]) -> Row:
    return msgspec.convert({name: row[name] for name in kind.__struct_fields__}, kind)
