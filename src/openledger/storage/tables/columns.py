"""The column types of every table, the same on SQLite and PostgreSQL.

Money is exact in both: NUMERIC(78,0) on PostgreSQL, 32 bytes big-endian on SQLite, which compare
as the numbers do. SQL may compare money and never adds it: sums are made in Python.
"""

from decimal import Decimal
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    String,
    Text,
    types,
)

from openledger.core.errors import InvalidInputError
from openledger.core.types import Wei

WEI_BYTES = 32

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class WeiColumn(types.TypeDecorator[Wei]):
    """An amount of wei from 0 to 2**256 - 1."""

    impl = LargeBinary
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> types.TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(Numeric(78, 0))
        return dialect.type_descriptor(LargeBinary(WEI_BYTES))

    def process_bind_param(self, value: Wei | None, dialect: Dialect) -> bytes | Decimal | None:
        """Refuse what no contract could hold.

        Raises:
            InvalidInputError: negative, or above 2**256 - 1.
        """
        if value is None:
            return None
        if not 0 <= value < 1 << 8 * WEI_BYTES:
            raise InvalidInputError(f"{value} wei cannot be stored: give 0 to 2**256 - 1")
        if dialect.name == "postgresql":
            return Decimal(value)
        return value.to_bytes(WEI_BYTES, "big")

    def process_result_value(
        self,
        value: bytes | Decimal | None,
        dialect: Dialect,  # noqa: ARG002 - the signature is SQLAlchemy's
    ) -> Wei | None:
        if value is None:
            return None
        return Wei(int.from_bytes(value, "big") if isinstance(value, bytes) else int(value))


class NumberColumn(types.TypeDecorator[int]):
    """A signed 64-bit integer."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(
        self,
        value: int | None,
        dialect: Dialect,  # noqa: ARG002 - the signature is SQLAlchemy's
    ) -> int | None:
        """Refuse what no database holds: SQLite would raise OverflowError, no error of a database.

        Raises:
            InvalidInputError: below -2**63 or above 2**63 - 1.
        """
        if value is not None and not -(2**63) <= value < 2**63:
            raise InvalidInputError("a number of over 64 bits cannot be stored; give a smaller one")
        return value


def identity(name: str, *, primary: bool = False, required: bool = True) -> Column[str]:
    """A row id, a label or a state: up to 128 characters."""
    return Column(name, String(128), primary_key=primary, nullable=not (primary or required))


def account(name: str, *, primary: bool = False, required: bool = True) -> Column[str]:
    """An `Account`."""
    return Column(name, String(42), primary_key=primary, nullable=not (primary or required))


def digest(name: str, *, primary: bool = False, required: bool = True) -> Column[str]:
    """A `Digest`, or another 32 bytes in hex."""
    return Column(name, String(64), primary_key=primary, nullable=not (primary or required))


def text(name: str, *, required: bool = True) -> Column[str]:
    """Words of any length."""
    return Column(name, Text, nullable=not required)


def raw(name: str, *, required: bool = True) -> Column[bytes]:
    """Bytes as they are."""
    return Column(name, LargeBinary, nullable=not required)


def number(name: str, *, primary: bool = False, required: bool = True) -> Column[int]:
    """A signed 64-bit integer; times are microseconds since 1970."""
    # An integer key of SQLite's own would count up by itself; every key here is given.
    return Column(
        name,
        NumberColumn,
        primary_key=primary,
        autoincrement=False,
        nullable=not (primary or required),
    )


def counter(name: str) -> Column[int]:
    """A primary key that the database counts up."""
    kind = BigInteger().with_variant(Integer, "sqlite")
    return Column(name, kind, primary_key=True, autoincrement=True)


def flag(name: str) -> Column[bool]:
    """True or false."""
    return Column(name, Boolean, nullable=False)


def wei(name: str, *, required: bool = True) -> Column[Wei]:
    """An amount of money."""
    return Column(name, WeiColumn, nullable=not required)
