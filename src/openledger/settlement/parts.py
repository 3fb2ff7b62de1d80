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
    """A release that went into a merge, and who built it."""

    release: int  # its number in the contract `Models`
    account: Account


class Roles(msgspec.Struct, frozen=True):
    """The accounts behind the roles of one call; None where nobody fills a role."""

    commons: Account  # the Payouts contract itself: no key moves it
    platform: Account
    builders: tuple[Account, ...]  # of the members of the mix, in its order
    node: Account | None = None
    verifiers: Account | None = None
    stakers: Account | None = None
    base_owner: Account | None = None
    # Of each member of the mix what it was merged from, in rising order; None: no one is a merge.
    parent: tuple[tuple[Parent, ...], ...] | None = None


class Parents(msgspec.Struct, frozen=True):
    """What a release was merged from, as it is stored."""

    releases: tuple[Parent, ...]


class Part(msgspec.Struct, frozen=True):
    """One payee's part of one fee."""

    role: str
    account: Account
    amount: Wei


class Earned(msgspec.Struct, frozen=True):
    """What one member of a mix made of a fee; what went to commons is not in it."""

    builder: Wei  # for who built it
    data: Wei  # for those whose data it was trained on
    parent: Wei  # for who built what it was merged from


def fee_parts(
    fee: Wei,
    policy: SplitPolicy,
    roles: Roles,
    members: Sequence[MemberScores],
    attribution: Attribution,
) -> tuple[Part, ...]:
    """Divide a fee among roles, and its data part among contributors.

    Builder and parent part go to the members of the mix, by what each of them earns; a merge passes
    its parent part on by what each of its parents added to the answer. Roles come in the policy's
    order, contributors and parents by account; parts of zero are left out.
    """
    parts: list[Part] = []
    for name, amount in role_amounts(fee, policy).items():
        if name == DATA:
            parts += _data_parts(amount, roles.commons, attribution)
        elif name == BUILDER:
            parts += _builder_parts(amount, roles, members)
        elif name == PARENT:
            parts += _parent_parts(amount, roles, members)
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
    """Divide what builders, parents and contributors have of a fee among the members of its mix.

    An account that earns by several members has of each what that member is owed for it.

    Invariant: over the members, each account's amounts sum to its parts of the fee.
    """
    amounts = role_amounts(fee, policy)
    builder = _by_member(amounts[BUILDER], roles, members)
    parents = _by_parent(amounts[PARENT], roles, members) or [[] for _ in members]
    owed = owed_ppb(members)
    data = [0] * len(members)
    for part in _data_parts(amounts[DATA], roles.commons, attribution):
        if part.role == DATA:
            pieces = apportion(
                part.amount, [by_account.get(part.account, 0) for by_account in owed]
            )
            data = [sum(pair) for pair in zip(data, pieces, strict=True)]
    return tuple(
        Earned(Wei(builder[place]), Wei(amount), Wei(sum(part for _, part in parents[place])))
        for place, amount in enumerate(data)
    )


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


def check_parents(roles: Roles, members: Sequence[MemberScores]) -> None:
    """Check that a statement says of each merge who built what is in it, and what that added.

    Raises:
        VerificationError: parents are named for another number of members, or out of order; or a
            member that has scores does not say once what each of them added.
    """
    named = ((),) * len(members) if roles.parent is None else roles.parent
    if len(named) != len(members):
        raise VerificationError(f"a mix of {len(members)} names the parents of {len(named)}")
    for parents, member in zip(named, members, strict=True):
        releases = [one.release for one in parents]
        if releases != sorted(set(releases)):
            raise VerificationError("the parents of a release are not in rising order, each once")
        added = len(member.parents_micronats or ())
        if added != (0 if member.unscored else len(parents)):
            raise VerificationError(
                f"release {member.release} has {len(parents)} parents and says of {added} what "
                "they added"
            )


def stored_parents(raw: bytes | None) -> tuple[Parent, ...]:
    """What a release was merged from, from canonical bytes; nothing where it is no merge."""
    return () if raw is None else decode(raw, Parents).releases


def _builder_parts(amount: int, roles: Roles, members: Sequence[MemberScores]) -> list[Part]:
    earned = _by_member(amount, roles, members)
    nobody = amount - sum(earned.values())
    parts = [Part(BUILDER, roles.builders[place], Wei(part)) for place, part in earned.items()]
    return [*parts, Part(COMMONS, roles.commons, Wei(nobody))]


def _parent_parts(amount: int, roles: Roles, members: Sequence[MemberScores]) -> list[Part]:
    owed: dict[Account, int] = {}
    for parents in _by_parent(amount, roles, members):
        for account, part in parents:
            owed[account] = owed.get(account, 0) + part
    nobody = amount - sum(owed.values())
    parts = [Part(PARENT, account, Wei(owed[account])) for account in sorted(owed)]
    return [*parts, Part(COMMONS, roles.commons, Wei(nobody))]


def _by_parent(
    amount: int, roles: Roles, members: Sequence[MemberScores]
) -> list[list[tuple[Account, int]]]:
    """What the parents of each member have of the parent part; the rest is nobody's."""
    earned = _by_member(amount, roles, members)
    found = []
    for place, parents in enumerate(roles.parent or ()):
        gains = [max(0, one) for one in members[place].parents_micronats or ()]
        parts = apportion(earned[place] if sum(gains) else 0, gains)
        accounts = [one.account for one in parents]
        found.append([*zip(accounts, parts, strict=False)])  # no gains where it has no scores
    return found


def _by_member(amount: int, roles: Roles, members: Sequence[MemberScores]) -> dict[int, int]:
    """What each place in the mix has of a part, by account; the rest is nobody's."""
    earned_ppb = member_ppb(members)
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
