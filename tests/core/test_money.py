import pytest
from hypothesis import given
from hypothesis import strategies as st

from openledger.core.errors import InvalidInputError
from openledger.core.money import from_open, to_open
from openledger.core.types import Wei


@given(st.integers(0, 10**30))
def test_an_amount_survives_the_way_there_and_back(amount: int) -> None:
    assert from_open(to_open(Wei(amount))) == amount


@pytest.mark.parametrize(
    ("text", "wei"),
    [
        ("0", 0),
        ("0.10", 10**17),
        (".5", 5 * 10**17),
        ("1_000", 10**21),
        ("1e-18", 1),
        ("2E3", 2_000 * 10**18),
        (" 1 ", 10**18),
    ],
)
def test_decimals_are_read_exactly(text: str, wei: int) -> None:
    assert from_open(text) == wei


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "-0.1", "1e-19", "NaN", "Infinity", "1e99", "9" * 41, "0x10", "\u0663"]
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="at most 18 places"):
        from_open(text)


def test_a_price_for_a_thousand_divides_exactly() -> None:
    assert to_open(Wei(1), 1_000) == "0.000000000000000000001"
    assert to_open(Wei(10**18), 1_000) == "0.001"
    assert to_open(Wei(0), 1_000) == "0"
