"""Amounts as people and JSON write them: decimals of OPEN, exact to the wei."""

from decimal import Decimal, InvalidOperation

from openledger.core.errors import InvalidInputError
from openledger.core.types import WEI_PER_OPEN, Wei

CURRENCY = "OPEN"

_DECIMALS = 18
_MOST_DIGITS = 40


def to_open(amount: Wei, per: int = 1) -> str:
    """Wei as OPEN, without trailing zeros; `per`, a power of ten, divides it exactly."""
    unit = WEI_PER_OPEN * per
    whole, rest = divmod(amount, unit)
    places = len(str(unit)) - 1
    return f"{whole}.{rest:0{places}d}".rstrip("0").rstrip(".")


def from_open(text: str) -> Wei:
    """OPEN as wei.

    Raises:
        InvalidInputError: no number, negative, or finer than a wei.
    """
    digits = text.strip() if text.isascii() else ""  # Decimal reads the digits of every script
    try:
        # Exact: 40 digits before a shift by 18 places; the default context would round to 28.
        amount = Decimal(digits if len(digits) <= _MOST_DIGITS else "").as_tuple()
    except InvalidOperation as error:
        raise InvalidInputError(_ADVICE.format(text)) from error
    shift = amount.exponent + _DECIMALS if isinstance(amount.exponent, int) else -1
    if amount.sign or not 0 <= shift <= _MOST_DIGITS:
        raise InvalidInputError(_ADVICE.format(text))
    return Wei(int("".join(map(str, amount.digits))) * 10**shift)


AMOUNT_PATTERN = r"^[0-9]{1,20}(\.[0-9]{1,18})?$"  # of what `from_open` reads, and people write
_ADVICE = "an amount of OPEN is a decimal such as 0.10 with at most 18 places, not {!r}"
