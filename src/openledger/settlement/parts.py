"""Who gets which wei of one fee.

Invariant: the parts of a fee sum to it exactly. A role that nobody fills, and what no builder's
release or contributor's data earned, go to commons.
"""

from collections.abc import Sequence

import msgspec

from openledger.core.errors import VerificationError
from openledger.core.types import PARTS_PER_BILLION, Account, Wei
from openledger.settlement.price import SplitPolicy
from openledger.settlement.shares import Attribution
from openledger.settlement.split import apportion

COMMONS = "commons"
DATA = "data"
BUILDER = "builder"


class Roles(msgspec.Struct, frozen=True):
    """The accounts behind the roles of one call; None where nobody fills a role."""

    commons: Account  # the Payouts contract itself: no key moves it
    platform: Account
    builders: tuple[Account, ...]  # of the members of the mix, in its order
    node: Account | None = None
    verifiers: Account | None = None
    stakers: Account | None = None
    base_owner: Account | None = None
    parent: Account | None = None


class Part(msgspec.Struct, frozen=True):
    """One payee's part of one fee."""

    role: str
    account: Account
    amount: Wei


def fee_parts(
    fee: Wei,
    policy: SplitPolicy,
    roles: Roles,
    member_ppb: Sequence[int],
    attribution: Attribution,
) -> tuple[Part, ...]:
    """Divide a fee among roles, and its data part among contributors.

    The builder part goes to the members of the mix, by what each of them earns. Roles come in the
    policy's order, contributors by account; parts of zero are left out.
    """
    names = policy.__struct_fields__
    amounts = apportion(fee, [getattr(policy, name) for name in names])
    parts: list[Part] = []
    for name, amount in zip(names, amounts, strict=True):
        if name == DATA:
            parts += _data_parts(amount, roles.commons, attribution)
        elif name == BUILDER:
            parts += _builder_parts(amount, roles, member_ppb)
        else:
            account = getattr(roles, name)
            filled = account is not None
            payee = account if filled else roles.commons
            parts.append(Part(name if filled else COMMONS, payee, Wei(amount)))
    return _merged(parts)


def check_roles(roles: Roles, gateway: Account, members: int) -> None:
    """Refuse a split in which washing one's own calls could pay, or a builder is missing.

    Raises:
        VerificationError: the platform part would return to the serving gateway, or there are
            more or fewer builders than members of the mix.
    """
    if roles.platform == gateway:
        raise VerificationError("the platform part goes to the gateway that served the call")
    if len(roles.builders) != members:
        raise VerificationError(f"a mix of {members} has {len(roles.builders)} builders")


def _builder_parts(amount: int, roles: Roles, member_ppb: Sequence[int]) -> list[Part]:
    # By account: with equal remainders the order of the members decides nothing.
    order = sorted(range(len(member_ppb)), key=lambda place: (roles.builders[place], place))
    weights = [member_ppb[place] for place in order]
    *earned, nobody = apportion(amount, [*weights, PARTS_PER_BILLION - sum(weights)])
    parts = [
        Part(BUILDER, roles.builders[place], Wei(part))
        for place, part in zip(order, earned, strict=True)
    ]
    return [*parts, Part(COMMONS, roles.commons, Wei(nobody))]


def _data_parts(amount: int, commons: Account, attribution: Attribution) -> list[Part]:
    weights = [share.weight_ppb for share in attribution.shares] + [attribution.nobody_ppb]
    *earned, nobody = apportion(amount, weights)
    parts = [
        Part(DATA, share.account, Wei(part))
        for share, part in zip(attribution.shares, earned, strict=True)
    ]
    return [*parts, Part(COMMONS, commons, Wei(nobody))]


def _merged(parts: list[Part]) -> tuple[Part, ...]:
    sums: dict[tuple[str, Account], int] = {}
    for part in parts:
        key = (part.role, part.account)
        sums[key] = sums.get(key, 0) + part.amount
    return tuple(
        Part(role, account, Wei(sums[role, account]))
        for role, account in sums
        if sums[role, account]
    )
