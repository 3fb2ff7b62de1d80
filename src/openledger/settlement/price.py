"""What a call costs, and who gets which part of it."""

import msgspec

from openledger.core.errors import InvalidInputError
from openledger.core.types import BASIS_POINTS, Wei

TOKENS_PER_PRICE = 1_000
MIN_PLATFORM_BPS = 500  # below it, buying one's own answers could pay (docs/explanation/trust.md)


class Price(msgspec.Struct, frozen=True):
    """The price of one release."""

    input_1k: Wei  # wei per 1,000 input tokens
    output_1k: Wei  # wei per 1,000 output tokens
    request: Wei  # wei per request


class SplitPolicy(msgspec.Struct, frozen=True):
    """Which role gets which part of a fee, in basis points that sum to 10,000."""

    platform: int = 1_000
    builder: int = 2_000
    node: int = 1_400
    verifiers: int = 300
    stakers: int = 300
    data: int = 5_000
    base_owner: int = 0
    parent: int = 0

    def __post_init__(self) -> None:
        parts = [getattr(self, name) for name in self.__struct_fields__]
        if min(parts) < 0 or sum(parts) != BASIS_POINTS:
            raise InvalidInputError(f"the parts of a split sum to {BASIS_POINTS}: {parts}")
        if self.platform < MIN_PLATFORM_BPS:
            raise InvalidInputError(f"the platform part is at least {MIN_PLATFORM_BPS} bps")


class Terms(msgspec.Struct, frozen=True):
    """Price and split of a release, as one version on chain."""

    version: int
    price: Price
    policy: SplitPolicy


def fee(price: Price, input_tokens: int, output_tokens: int) -> Wei:
    """`request + ceil((in * input_1k + out * output_1k) / 1000)`, in wei.

    Raises:
        InvalidInputError: a token count is negative.
    """
    if input_tokens < 0 or output_tokens < 0:
        raise InvalidInputError("token counts may not be negative")
    metered = input_tokens * price.input_1k + output_tokens * price.output_1k
    return Wei(price.request - (-metered // TOKENS_PER_PRICE))
