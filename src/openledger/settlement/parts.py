"""Who gets which wei of one fee.

Invariant: the parts of a fee sum to it exactly. A role that nobody fills, and the data money that
no contributor's data earned, go to commons.
"""

import msgspec

from openledger.core.errors import VerificationError
from openledger.core.types import Account, Wei
from openledger.settlement.price import SplitPolicy
from openledger.settlement.shares import Attribution
from openledger.settlement.split import apportion

COMMONS = "commons"
DATA = "data"


class Roles(msgspec.Struct, frozen=True):
    """The accounts behind the roles of one call; None where nobody fills a role."""

    commons: Account  # the Payouts contract itself: no key moves it
    platform: Account
    builder: Account
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
    fee: Wei, policy: SplitPolicy, roles: Roles, attribution: Attribution
) -> tuple[Part, ...]:
    """Divide a fee among roles, and its data part among contributors.

    Roles come in the policy's order, contributors by account; parts of zero are left out.
    """
    names = policy.__struct_fields__
    amounts = apportion(fee, [getattr(policy, name) for name in names])
    parts: list[Part] = []
    for name, amount in zip(names, amounts, strict=True):
        if name == DATA:
            parts += _data_parts(amount, roles.commons, attribution)
            continue
        account = getattr(roles, name)
        filled = account is not None
        parts.append(
            Part(name if filled else COMMONS, account if filled else roles.commons, Wei(amount))
        )
    return _merged(parts)


def check_roles(roles: Roles, gateway: Account) -> None:
    """Refuse a split in which washing one's own calls could pay.

    Raises:
        VerificationError: the platform part would return to the serving gateway.
    """
    if roles.platform == gateway:
        raise VerificationError("the platform part goes to the gateway that served the call")


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
