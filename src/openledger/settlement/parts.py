"""Who gets which wei of one fee.

Invariant: the parts of a fee sum to it exactly. A role that nobody fills, and what no builder's
release or contributor's data earned, go to commons.

The parent part of a release that was merged from others goes to the builders of these.
"""

from collections.abc import Sequence

import msgspec

from openledger.core.encoding import decode
from openledger.core.errors import VerificationError
from openledger.core.types import PARTS_PER_BILLION, Account, Wei
from openledger.settlement.price import SplitPolicy
from openledger.settlement.shares import Attribution, MemberScores, member_ppb, owed_ppb
from openledger.settlement.split import apportion

COMMONS = "commons"
DATA = "data"
BUILDER = "builder"
PARENT = "parent"


class Parent(msgspec.Struct, frozen=True):
    """A builder whose release went into a merge, and his part of what the merge pays to such."""

    account: Account
    weight_ppb: int


class Roles(msgspec.Struct, frozen=True):
    """The accounts behind the roles of one call; None where nobody fills a role."""

    commons: Account  # the Payouts contract itself: no key moves it
    platform: Account
    builders: tuple[Account, ...]  # of the members of the mix, in its order
    node: Account | None = None
    verifiers: Account | None = None
    stakers: Account | None = None
    base_owner: Account | None = None
    # Of each member of the mix those whose releases it was merged from; None: no member is a merge.
    parent: tuple[tuple[Parent, ...], ...] | None = None


class Parents(msgspec.Struct, frozen=True):
    """Who divides the parent part of a release, as it is stored."""

    builders: tuple[Parent, ...]


class Ancestor(msgspec.Struct, frozen=True):
    """One release that goes into a merge, as far as money is concerned."""

    builder: Account
    policy: SplitPolicy  # in force
    parents: tuple[Parent, ...]  # of its own, where it is a merge itself
    added_micronats: int  # how much likelier the merge is to write held-out texts with it


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

    Builder and parent part go to the members of the mix, by what each of them earns. Roles come in
    the policy's order, contributors by account; parts of zero are left out.
    """
    parts: list[Part] = []
    for name, amount in role_amounts(fee, policy).items():
        if name == DATA:
            parts += _data_parts(amount, roles.commons, attribution)
        elif name == BUILDER:
            parts += _builder_parts(amount, roles, earned_ppb)
        elif name == PARENT:
            parts += _parent_parts(amount, roles, earned_ppb)
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
        VerificationError: the platform part would return to the serving gateway, there are more or
            fewer builders than members of the mix, or parents whose weights are no parts of one.
    """
    if roles.platform == gateway:
        raise VerificationError("the platform part goes to the gateway that served the call")
    if len(roles.builders) != members:
        raise VerificationError(f"a mix of {members} has {len(roles.builders)} builders")
    if roles.parent is not None:
        if len(roles.parent) != members:
            raise VerificationError(f"a mix of {members} names the parents of {len(roles.parent)}")
        for parents in roles.parent:
            check_parents(parents)


def check_parents(parents: Sequence[Parent]) -> None:
    """Check that some parents divide one part wholly; a release that is no merge has none.

    Raises:
        VerificationError: an account stands twice or out of order, a weight is not above 0, or they
            do not sum to 1_000_000_000.
    """
    accounts = [one.account for one in parents]
    weights = [one.weight_ppb for one in parents]
    if accounts != sorted(set(accounts)):
        raise VerificationError("the parents of a release are not in rising order, each once")
    if parents and (min(weights) <= 0 or sum(weights) != PARTS_PER_BILLION):
        raise VerificationError("the parents of a release do not divide one part among them")


def stored_parents(raw: bytes | None) -> tuple[Parent, ...]:
    """Who divides a release's parent part, from canonical bytes; nobody where it is no merge."""
    return () if raw is None else decode(raw, Parents).builders


def inherited(members: Sequence[Ancestor]) -> tuple[Parent, ...]:
    """How the parent part of a merge is divided: by what each member added to it.

    Where none added anything, equally. A member that is a merge itself shares its part with its own
    parents as its terms share builder and parent part.

    Args:
        members: in rising order of their releases.

    Raises:
        NothingToSplitError: there is no member.
    """
    gains = [max(0, one.added_micronats) for one in members]
    shares = apportion(PARTS_PER_BILLION, gains if sum(gains) else [1] * len(members))
    earned: dict[Account, int] = {}
    for member, share in zip(members, shares, strict=True):
        for account, part in _among(member, share):
            earned[account] = earned.get(account, 0) + part
    return tuple(Parent(account, earned[account]) for account in sorted(earned) if earned[account])


def _among(member: Ancestor, share: int) -> list[tuple[Account, int]]:
    """A member's part, over its builder and its own parents."""
    if not (member.parents and member.policy.parent):
        return [(member.builder, share)]
    own, theirs = apportion(share, [member.policy.builder, member.policy.parent])
    parts = apportion(theirs, [one.weight_ppb for one in member.parents])
    others = [(one.account, part) for one, part in zip(member.parents, parts, strict=True)]
    return [(member.builder, own), *others]


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


def _parent_parts(amount: int, roles: Roles, earned_ppb: Sequence[int]) -> list[Part]:
    """Each member's parents divide what it earns; one that is no merge leaves it to commons."""
    owed: dict[Account, int] = {}
    for parents, ppb in zip(roles.parent or ((),) * len(earned_ppb), earned_ppb, strict=True):
        for one in parents:
            owed[one.account] = owed.get(one.account, 0) + ppb * one.weight_ppb
    accounts = sorted(owed)
    weights = [owed[account] for account in accounts]
    *parts, nobody = apportion(amount, [*weights, PARTS_PER_BILLION**2 - sum(weights)])
    paid = [Part(PARENT, account, Wei(part)) for account, part in zip(accounts, parts, strict=True)]
    return [*paid, Part(COMMONS, roles.commons, Wei(nobody))]


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
