"""What a call of one release or of a mix costs, and who gets which part of it."""

from collections.abc import Sequence

import msgspec

from openledger.core.errors import InvalidInputError
from openledger.core.ids import model_text
from openledger.core.money import to_open
from openledger.core.types import BASIS_POINTS, Digest, Wei

TOKENS_PER_PRICE = 1_000
MIX_TERMS_VERSION = 0  # terms that follow from those of several releases; on chain it counts from 1
MIN_PLATFORM_BPS = 500  # below it, buying one's own answers could pay (docs/explanation/trust.md)


class Price(msgspec.Struct, frozen=True):
    """The price of one release."""

    input_1k: Wei  # wei per 1,000 input tokens
    output_1k: Wei  # wei per 1,000 output tokens
    request: Wei  # wei per request


_PRICE_NAMES = {
    "input_1k": "for 1,000 input tokens",
    "output_1k": "for 1,000 output tokens",
    "request": "for a request",
}


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


MERGED_POLICY = SplitPolicy(builder=1_000, parent=1_000)  # the default one, of a merge


class Terms(msgspec.Struct, frozen=True):
    """Price and split of a release, as one version on chain."""

    version: int
    price: Price
    policy: SplitPolicy


class MixMember(msgspec.Struct, frozen=True):
    """One release of the mix that answered."""

    release: int  # its number in the contract `Models`
    name: str  # owner/name@version
    adapter: Digest
    training_root: Digest
    weight_ppb: int
    # Its own, as on chain, where several releases answered; unset: the call's terms are its own.
    terms: Terms | msgspec.UnsetType = msgspec.UNSET


def model_name(mix: Sequence[MixMember]) -> str:
    """The model that answered, as a caller would ask for it."""
    return model_text((member.name, member.weight_ppb) for member in mix)


def mixed_terms(terms: Sequence[Terms]) -> Terms:
    """The terms of one call that several releases answer: each price is the highest of theirs.

    A release alone is called at its own. So no release is ever called below its price, whatever
    stands beside it, and a mix costs no more than its dearest member would for the same tokens.
    The order of the members decides nothing.

    Raises:
        InvalidInputError: they divide fees among the roles in different ways.
    """
    first, *others = terms
    if not others:
        return first
    if any(one.policy != first.policy for one in others):
        raise InvalidInputError(
            "these releases divide their fees in different ways, and one fee is divided in one: "
            "mix releases of the same split"
        )
    prices = [one.price for one in terms]
    highest = Price(
        input_1k=max(price.input_1k for price in prices),
        output_1k=max(price.output_1k for price in prices),
        request=max(price.request for price in prices),
    )
    return Terms(MIX_TERMS_VERSION, highest, first.policy)


def check_merged(price: Price, policy: SplitPolicy, members: Sequence[Terms]) -> None:
    """Check that a release merged from others takes nothing from them.

    It costs no less than the dearest of them, pays data no less, and leaves at least half of what
    theirs leave to builders to the builders of these.

    Args:
        price: of the merge.
        policy: of the merge.
        members: the terms in force of the releases that it was merged from.

    Raises:
        InvalidInputError: it does; the message says which term to raise.
    """
    for name in Price.__struct_fields__:
        least = max(getattr(terms.price, name) for terms in members)
        if getattr(price, name) < least:
            raise InvalidInputError(
                f"{_PRICE_NAMES[name]} a merge costs at least what its dearest member costs, "
                f"{to_open(Wei(least))} OPEN: raise that price"
            )
    data = max(terms.policy.data for terms in members)
    parent = max(-(-(terms.policy.builder + terms.policy.parent) // 2) for terms in members)
    for name, least in (("data", data), ("parent", parent)):
        if getattr(policy, name) < least:
            raise InvalidInputError(
                f"the {name} part of this merge is at least {least} basis points, by the terms of "
                "its members: raise it"
            )


def fee(price: Price, input_tokens: int, output_tokens: int) -> Wei:
    """`request + ceil((in * input_1k + out * output_1k) / 1000)`, in wei.

    Raises:
        InvalidInputError: a token count is negative.
    """
    if input_tokens < 0 or output_tokens < 0:
        raise InvalidInputError("token counts may not be negative")
    metered = input_tokens * price.input_1k + output_tokens * price.output_1k
    return Wei(price.request - (-metered // TOKENS_PER_PRICE))
