"""Divide an amount exactly, by the largest-remainder method.

Invariant of both functions: the parts sum to the amount, to the wei, for any weights.
"""

from collections.abc import Mapping, Sequence

from openledger.core.errors import NothingToSplitError
from openledger.core.types import Account, Wei


def apportion(amount: int, weights: Sequence[int]) -> list[int]:
    """Divide `amount` in proportion to `weights`; ties of remainder go to the lower index.

    Raises:
        NothingToSplitError: an amount above zero meets no weight above zero, or a weight or the
            amount is negative.
    """
    total = sum(weights)
    if amount < 0 or min(weights, default=0) < 0:
        raise NothingToSplitError("amounts and weights may not be negative")
    if total == 0:
        if amount:
            raise NothingToSplitError(f"{amount} has nobody to go to: every weight is zero")
        return [0] * len(weights)
    parts = [amount * weight // total for weight in weights]
    # Sorting is stable, so equal remainders keep the order of their index.
    by_remainder = sorted(range(len(weights)), key=lambda i: -(amount * weights[i] % total))
    for index in by_remainder[: amount - sum(parts)]:
        parts[index] += 1
    return parts


def split(amount: Wei, weights: Mapping[Account, int]) -> dict[Account, Wei]:
    """Divide `amount` in proportion to `weights`; ties go to the lower account.

    Raises:
        NothingToSplitError: see `apportion`.
    """
    accounts = sorted(weights)
    parts = apportion(amount, [weights[account] for account in accounts])
    return {account: Wei(part) for account, part in zip(accounts, parts, strict=True)}
