"""Whatever divides money conserves it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openledger.core.errors import NothingToSplitError
from openledger.core.types import Account, Wei
from openledger.settlement.split import apportion, split

weights = st.lists(st.integers(0, 2**70), min_size=1, max_size=20).filter(lambda w: sum(w) > 0)
accounts = st.binary(min_size=20, max_size=20).map(lambda b: Account("0x" + b.hex()))


@given(st.integers(0, 2**100), weights)
def test_parts_sum_to_the_amount(amount: int, parts: list[int]) -> None:
    assert sum(apportion(amount, parts)) == amount


@given(st.integers(0, 2**100), weights)
def test_no_part_is_a_whole_unit_off_its_due(amount: int, parts: list[int]) -> None:
    for got, weight in zip(apportion(amount, parts), parts, strict=True):
        assert abs(got * sum(parts) - amount * weight) < sum(parts)


@given(st.integers(0, 2**80), st.dictionaries(accounts, st.integers(0, 99), min_size=1))
def test_the_order_of_accounts_changes_nothing(amount: int, table: dict[Account, int]) -> None:
    if sum(table.values()):
        backwards = dict(reversed(table.items()))

        assert split(Wei(amount), table) == split(Wei(amount), backwards)


def test_ties_go_to_the_lower_account() -> None:
    low, high = Account("0x" + "0" * 40), Account("0x" + "f" * 40)

    assert split(Wei(3), {high: 1, low: 1}) == {low: 2, high: 1}


def test_nothing_divides_among_nobody() -> None:
    assert apportion(0, [0, 0]) == [0, 0]
    with pytest.raises(NothingToSplitError, match="nobody"):
        apportion(1, [0, 0])


@pytest.mark.parametrize(("amount", "parts"), [(-1, [1]), (1, [2, -1])])
def test_negative_money_is_refused(amount: int, parts: list[int]) -> None:
    with pytest.raises(NothingToSplitError, match="negative"):
        apportion(amount, parts)
