"""What to reserve before the first token, so that no call can ever cost more than was there.

The hold is the most a call may cost: its prompt and `max_tokens`, or the caller's `max_cost`.
After the last token the fee is taken and the rest released.
"""

import msgspec

from openledger.core.errors import (
    InsufficientBalanceError,
    InvalidInputError,
    NotAllowedError,
)
from openledger.core.types import Wei
from openledger.settlement.price import TOKENS_PER_PRICE, Price, Terms, fee
from openledger.settlement.voucher import Channel

# Left to the operator to settle a call before its voucher expires: nothing settles by itself.
TIME_TO_SETTLE_S = 86_400


class Ask(msgspec.Struct, frozen=True):
    """What the caller wants of one call."""

    input_tokens: int
    max_tokens: int
    max_cost: Wei | None = None


class Purse(msgspec.Struct, frozen=True):
    """What a payer has left at this gateway, before this call."""

    free: Wei  # deposited - spent - withdrawn - unsettled fees - open holds
    voucher_left: Wei  # voucher limit - all fees ever - open holds
    day_left: Wei  # daily cap - fees and holds of this UTC day


class Hold(msgspec.Struct, frozen=True):
    """The amount to reserve, and the output that it covers."""

    amount: Wei
    max_tokens: int


def hold(ask: Ask, terms: Terms, channel: Channel, purse: Purse, now_s: int) -> Hold:
    """Decide the hold of a call.

    Raises:
        InvalidInputError: `max_tokens` below one.
        NotAllowedError: the terms break the payer's own conditions.
        InsufficientBalanceError: balance, voucher or daily cap cannot cover the call, or
            `max_cost` the prompt and one token.
    """
    if ask.max_tokens < 1:
        raise InvalidInputError(f"max_tokens is {ask.max_tokens}; ask for at least 1")
    _check_conditions(channel, terms, now_s)
    max_tokens = _affordable(ask, terms.price)
    amount = fee(terms.price, ask.input_tokens, max_tokens)
    for left, what in (
        (purse.free, "the prepaid balance; deposit more"),
        (purse.voucher_left, "the voucher's limit; sign a higher one"),
        (purse.day_left, "today's cap of this key; raise it or wait until midnight UTC"),
    ):
        if amount > left:
            raise InsufficientBalanceError(
                f"this call may cost {amount} wei, more than the {max(left, 0)} wei left of {what}"
            )
    return Hold(amount, max_tokens)


def _check_conditions(channel: Channel, terms: Terms, now_s: int) -> None:
    if now_s + TIME_TO_SETTLE_S >= channel.expiry:
        # An expired voucher draws nothing: whoever settles later pays for the payer.
        raise InsufficientBalanceError("the voucher expires too soon; sign a new one")
    dearest = max(terms.price.input_1k, terms.price.output_1k, terms.price.request)
    if dearest > channel.price_ceiling:
        raise NotAllowedError(
            f"{dearest} wei per 1,000 tokens or per request is above the ceiling "
            f"{channel.price_ceiling} of this key; choose another model or raise it"
        )
    if terms.policy.data < channel.min_data_bps:
        raise NotAllowedError(
            f"contributors get {terms.policy.data} basis points here, this key demands "
            f"{channel.min_data_bps}; choose another model"
        )


def _affordable(ask: Ask, price: Price) -> int:
    if ask.max_cost is None:
        return ask.max_tokens
    prompt = fee(price, ask.input_tokens, 0)
    if prompt > ask.max_cost:
        raise InsufficientBalanceError(
            f"max_cost is below the prompt's price of {prompt} wei; raise it"
        )
    if price.output_1k == 0:
        return ask.max_tokens
    left = (ask.max_cost - price.request) * TOKENS_PER_PRICE - ask.input_tokens * price.input_1k
    affordable = min(ask.max_tokens, left // price.output_1k)
    if affordable < 1:
        raise InsufficientBalanceError("max_cost does not buy one output token; raise it")
    return affordable
