"""No call costs more than was agreed and there."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openledger.core.errors import InsufficientBalanceError, InvalidInputError, NotAllowedError
from openledger.core.types import Account, Digest, Wei
from openledger.settlement.hold import TIME_TO_SETTLE_S, Ask, Purse, hold
from openledger.settlement.price import Price, SplitPolicy, Terms, fee
from openledger.settlement.voucher import Channel

PRICE = Price(Wei(1_000), Wei(3_000), Wei(7))
TERMS = Terms(1, PRICE, SplitPolicy())
CHANNEL = Channel(
    payer=Account("0x" + "aa" * 20),
    gateway=Account("0x" + "bb" * 20),
    expiry=1_000_000,
    price_ceiling=Wei(3_000),
    daily_cap=Wei(10**9),
    min_data_bps=5_000,
    salt=Digest("00" * 32),
)
RICH = Purse(Wei(10**9), Wei(10**9), Wei(10**9))
prices = st.builds(Price, *[st.integers(0, 10**6).map(Wei)] * 3)
counts = st.integers(0, 10**5)


@given(prices, counts, counts)
def test_the_fee_rounds_up_by_less_than_one_wei(price: Price, into: int, out: int) -> None:
    exact = 1000 * price.request + into * price.input_1k + out * price.output_1k

    assert 0 <= 1000 * fee(price, into, out) - exact < 1000


@given(prices, counts, st.integers(1, 10**5), st.integers(0, 10**9).map(Wei))
def test_a_hold_covers_every_answer_it_allows(
    price: Price, into: int, most: int, max_cost: Wei
) -> None:
    terms = Terms(1, price, SplitPolicy())
    open_channel = msgspec.structs.replace(
        CHANNEL, price_ceiling=Wei(10**6), daily_cap=Wei(10**18), min_data_bps=0
    )
    rich = Purse(*[Wei(10**18)] * 3)

    try:
        made = hold(Ask(into, most, max_cost), terms, open_channel, rich, now_s=0)
    except InsufficientBalanceError:
        assert fee(price, into, 1) > max_cost
        return

    assert made.amount == fee(price, into, made.max_tokens) <= max_cost
    assert 1 <= made.max_tokens <= most


def test_without_a_limit_the_hold_is_the_whole_answer() -> None:
    assert hold(Ask(10, 20), TERMS, CHANNEL, RICH, now_s=0).amount == fee(PRICE, 10, 20)


def test_free_output_is_not_limited_by_cost() -> None:
    free = Terms(1, Price(Wei(0), Wei(0), Wei(5)), SplitPolicy())

    assert hold(Ask(10, 20, Wei(5)), free, CHANNEL, RICH, now_s=0).max_tokens == 20


@pytest.mark.parametrize("max_tokens", [0, -1])
def test_an_answer_has_at_least_one_token(max_tokens: int) -> None:
    with pytest.raises(InvalidInputError, match="at least 1"):
        hold(Ask(1, max_tokens), TERMS, CHANNEL, RICH, now_s=0)


@pytest.mark.parametrize(
    ("purse", "what"),
    [
        (Purse(Wei(0), Wei(10**9), Wei(10**9)), "prepaid balance"),
        (Purse(Wei(10**9), Wei(0), Wei(10**9)), "voucher"),
        (Purse(Wei(10**9), Wei(10**9), Wei(-5)), "today's cap"),
    ],
)
def test_an_empty_purse_is_told_which(purse: Purse, what: str) -> None:
    with pytest.raises(InsufficientBalanceError, match=what):
        hold(Ask(10, 20), TERMS, CHANNEL, purse, now_s=0)


def test_a_voucher_must_outlive_its_settlement() -> None:
    last = CHANNEL.expiry - TIME_TO_SETTLE_S
    hold(Ask(10, 20), TERMS, CHANNEL, RICH, now_s=last - 1)
    with pytest.raises(InsufficientBalanceError, match="too soon"):
        hold(Ask(10, 20), TERMS, CHANNEL, RICH, now_s=last)


def test_the_payers_conditions_hold() -> None:
    dear = Terms(1, Price(Wei(1), Wei(3_001), Wei(0)), SplitPolicy())
    mean = Terms(1, PRICE, SplitPolicy(platform=1_001, data=4_999))

    with pytest.raises(NotAllowedError, match="ceiling"):
        hold(Ask(10, 20), dear, CHANNEL, RICH, now_s=0)
    with pytest.raises(NotAllowedError, match="contributors get 4999"):
        hold(Ask(10, 20), mean, CHANNEL, RICH, now_s=0)


def test_a_cost_limit_below_the_prompt_is_refused() -> None:
    with pytest.raises(InsufficientBalanceError, match="prompt's price"):
        hold(Ask(1_000, 20, Wei(8)), TERMS, CHANNEL, RICH, now_s=0)
    with pytest.raises(InsufficientBalanceError, match="one output token"):
        hold(Ask(0, 20, Wei(7)), TERMS, CHANNEL, RICH, now_s=0)


def test_negative_tokens_have_no_price() -> None:
    with pytest.raises(InvalidInputError, match="negative"):
        fee(PRICE, -1, 0)


@pytest.mark.parametrize(
    "parts",
    [{"platform": 999}, {"platform": 400, "data": 5_600}, {"platform": -1, "data": 6_001}],
)
def test_a_split_that_does_not_add_up_is_refused(parts: dict[str, int]) -> None:
    with pytest.raises(InvalidInputError):
        SplitPolicy(**parts)
