"""Who gets which wei of one fee.

Invariant: the parts of a fee sum to it exactly. A role that nobody fills, and what no builder's
release or contributor's data earned, go to commons.
"""

from collections.abc import Sequence

import msgspec

from openledger.core.errors import VerificationError
from openledger.core.types import PARTS_PER_BILLION, Account, Wei
from openledger.settlement.price import SplitPolicy
from openledger.settlement.shares import Attribution, MemberScores, member_ppb, owed_ppb
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


class Earned(msgspec.Struct, frozen=True):
    """What one member of a mix made of a fee; what went to commons is not in it."""

    builder: Wei  # for who built it
    data: Wei  # for those whose data it was trained on


def fee_parts(
    fee: Wei,
    policy: SplitPolicy,
    roles: Roles,
    earned_ppb: Sequence[int],
    attribution: Attribution,
) -> tuple[Part, ...]:
    """Divide a fee among roles, and its data part among contributors.

    The builder part goes to the members of the mix, by what each of them earns. Roles come in the
    policy's order, contributors by account; parts of zero are left out.
    """
    parts: list[Part] = []
    for name, amount in role_amounts(fee, policy).items():
        if name == DATA:
            parts += _data_parts(amount, roles.commons, attribution)
        elif name == BUILDER:
            parts += _builder_parts(amount, roles, earned_ppb)
        else:
            account = getattr(roles, name)
            filled = account is not None
            payee = account if filled else roles.commons
            parts.append(Part(name if filled else COMMONS, payee, Wei(amount)))
    return _merged(parts)


def role_amounts(fee: Wei, policy: SplitPolicy) -> dict[str, Wei]:
    """What the policy sets aside of a fee for each role, in its order; it sums to the fee."""
    names = policy.__struct_fields__
    amounts = apportion(fee, [getattr(policy, name) for name in names])
    return {name: Wei(amount) for name, amount in zip(names, amounts, strict=True)}


def earned_by_member(
    fee: Wei,
    policy: SplitPolicy,
    roles: Roles,
    members: Sequence[MemberScores],
    attribution: Attribution,
) -> tuple[Earned, ...]:
    """Divide what builders and contributors have of a fee among the members of its mix.

    An account that earns by several members has of each what that member is owed for it.

    Invariant: over the members, each account's amounts sum to its parts of the fee.
    """
    amounts = role_amounts(fee, policy)
    builder = _by_builder(amounts[BUILDER], roles, member_ppb(members))
    owed = owed_ppb(members)
    data = [0] * len(members)
    for part in _data_parts(amounts[DATA], roles.commons, attribution):
        if part.role == DATA:
            pieces = apportion(
                part.amount, [by_account.get(part.account, 0) for by_account in owed]
            )
            data = [sum(pair) for pair in zip(data, pieces, strict=True)]
    return tuple(Earned(Wei(builder[place]), Wei(amount)) for place, amount in enumerate(data))


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


def _builder_parts(amount: int, roles: Roles, earned_ppb: Sequence[int]) -> list[Part]:
    earned = _by_builder(amount, roles, earned_ppb)
    nobody = amount - sum(earned.values())
    parts = [Part(BUILDER, roles.builders[place], Wei(part)) for place, part in earned.items()]
    return [*parts, Part(COMMONS, roles.commons, Wei(nobody))]


def _by_builder(amount: int, roles: Roles, earned_ppb: Sequence[int]) -> dict[int, int]:
    """What each place in the mix has of the builder part, by account; the rest is nobody's."""
    # By account: with equal remainders the order of the members decides nothing.
    order = sorted(range(len(earned_ppb)), key=lambda place: (roles.builders[place], place))
    weights = [earned_ppb[place] for place in order]
    *earned, _ = apportion(amount, [*weights, PARTS_PER_BILLION - sum(weights)])
    return dict(zip(order, earned, strict=True))


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
