"""What every figure of a gateway's money was at which block, added up from the contracts' events.

Events are stored apart from what the contracts keep and from what the books noted, so each of the
three can be held against another. A noted figure that lags behind, because somebody else deposited
or claimed meanwhile, was true once; a wrong one never was.
"""

from collections.abc import Sequence

import msgspec

from openledger.chain.index.rows import StoredEvent
from openledger.core.types import Account, Wei

Step = tuple[int, Wei]  # a block, and the total after it


class Course(msgspec.Struct, frozen=True):
    """One figure of every account; it only ever rises."""

    steps: dict[Account, tuple[Step, ...]]

    def total(self) -> Wei:
        """The newest figures of all accounts together."""
        return Wei(sum(steps[-1][1] for steps in self.steps.values()))

    def was(self, account: Account, amount: int) -> bool:
        """Whether the account's figure was `amount` at the end of any block, or before the first.

        Of which block, a note cannot say for sure: behind one address several nodes may answer.
        """
        return amount in {Wei(0), *(total for _, total in self.steps.get(account, ()))}


class History(msgspec.Struct, frozen=True):
    """The figures of one gateway."""

    deposited: Course  # by payer
    spent: Course  # by payer
    withdrawn: Course  # by payer
    settled: Course  # fees of settled receipts, by gateway: of this one only
    claimed: Course  # by account

    def payers(self) -> tuple[Account, ...]:
        """All who ever had money here, in order."""
        return tuple(sorted(self.deposited.steps))


def history(gateway: Account, escrow: Sequence[StoredEvent], out: Sequence[StoredEvent]) -> History:
    """Add up the events of `Escrow` and of `Payouts`, which come in the order of the chain."""
    return History(
        deposited=_course(gateway, escrow, "Deposited", "payer"),
        spent=_course(gateway, escrow, "Drawn", "payer"),
        withdrawn=_course(gateway, escrow, "Exited", "payer"),
        settled=_course(gateway, escrow, "Settled", "gateway"),
        claimed=_course(gateway, out, "Claimed", "account"),
    )


def _course(gateway: Account, events: Sequence[StoredEvent], name: str, whose: str) -> Course:
    steps: dict[Account, list[Step]] = {}
    for event in events:
        if event.event != name:
            continue
        fields = event.fields()
        if fields["gateway"] != gateway:
            continue
        known = steps.setdefault(Account(fields[whose]), [])
        before = known[-1][1] if known else Wei(0)
        if known and known[-1][0] == event.number:
            known.pop()  # only what stood at a block's end could be seen
        known.append((event.number, Wei(before + fields["amount"])))
    return Course({account: tuple(found) for account, found in steps.items()})
