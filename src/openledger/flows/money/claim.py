"""Pay out what accounts earned: pulled from Payouts, by the owner or by anyone for him."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from openledger.chain.acts import Acts
from openledger.chain.contracts import Write
from openledger.chain.outbox.rows import op_id
from openledger.core.merkle import Tree
from openledger.core.types import Account, Digest, Wei
from openledger.settlement.epoch import Payout, payout_tree
from openledger.storage.database import Database
from openledger.storage.records.money import epochs

UNKNOWN_TRANSACTION = Digest("0" * 64)  # somebody else claimed for the account


class Paid(msgspec.Struct, frozen=True):
    """One account's claim."""

    account: Account
    amount: Wei  # paid now
    cumulative: Wei  # paid ever
    tx_hash: Digest


@dataclass(frozen=True)
class Claim:
    """Claims against the newest active payouts; claiming again pays nothing twice."""

    database: Database
    acts: Acts
    gateway: Account
    clock: Callable[[], int]

    def claimable(self, accounts: Sequence[Account]) -> dict[Account, Wei]:
        """What each account may claim now, in wei; those without are left out."""
        rows, _ = self._newest()
        wanted = set(accounts)
        due = {
            row.account: Wei(row.cumulative - self._claimed(row.account))
            for row in rows
            if row.account in wanted and not self._is_commons(row.account)
        }
        return {account: amount for account, amount in due.items() if amount > 0}

    def run(self, accounts: Sequence[Account]) -> list[Paid]:
        """Claim for these accounts; those who have nothing to claim are left out.

        Raises:
            ChainUnavailableError: the chain is down; run it again, nothing is lost.
        """
        rows, number = self._newest()
        if number is None:
            return []
        due = self.claimable(accounts)
        tree = self._tree(rows)
        self.acts.perform(
            {
                self._op(row.account, number): self._write(row, number, tree)
                for row in rows
                if row.account in due
            }
        )
        # What an interrupted run, or somebody else, claimed for them is noted as well.
        wanted = set(accounts)
        mine = [row.account for row in rows if row.account in wanted]
        return [paid for account in mine if (paid := self._note(account, number)) is not None]

    def catch_up(self) -> None:
        """Note what anybody claimed for the accounts of the newest payouts; anyone may."""
        rows, number = self._newest()
        for row in rows:
            if number is not None:
                self._note(row.account, number)

    def _newest(self) -> tuple[list[epochs.PayoutRow], int | None]:
        with self.database.read() as transaction:
            known = epochs.list_all(transaction, self.gateway)
            active = [one for one in known if one.state is epochs.EpochState.ACTIVE]
            if not active:
                return [], None
            rows = list(epochs.payouts_of(transaction, self.gateway, active[-1].number))
            return rows, active[-1].payout_number

    def _is_commons(self, account: Account) -> bool:
        # No key moves commons: it is the Payouts contract's own address.
        return account == self.acts.contracts.deployment.payouts

    def _claimed(self, account: Account) -> int:
        return self.acts.contracts.read(int, "Payouts", "claimed", self.gateway, account)

    def _op(self, account: Account, number: int) -> Digest:
        return op_id("claim", self.gateway, account, number)

    def _tree(self, rows: Sequence[epochs.PayoutRow]) -> Tree:
        contracts = self.acts.contracts
        payouts = [Payout(row.account, row.cumulative) for row in rows]
        return payout_tree(
            contracts.domain("Payouts"), contracts.deployment.payouts, self.gateway, payouts
        )

    def _write(self, row: epochs.PayoutRow, number: int, tree: Tree) -> Write:
        proof = tree.prove(row.index)
        return self.acts.contracts.write(
            "Payouts",
            "claim",
            row.account,
            self.gateway,
            number,
            row.cumulative,
            row.index,
            proof.path,
        )

    def _note(self, account: Account, number: int) -> Paid | None:
        claimed = self._claimed(account)
        op = self._op(account, number)
        with self.database.transaction() as transaction:
            noted = sum(row.amount for row in epochs.claims_of(transaction, self.gateway, account))
            if claimed <= noted:
                return None
            is_ours = self.acts.outbox.is_known(transaction, op)
        tx_hash = self.acts.outbox.outcomes([op])[0].tx_hash if is_ours else None
        row = epochs.ClaimRow(
            gateway=self.gateway,
            account=account,
            payout_number=number,
            cumulative=Wei(claimed),
            amount=Wei(claimed - noted),
            tx_hash=tx_hash or UNKNOWN_TRANSACTION,
            created_at=self.clock(),
        )
        with self.database.transaction() as transaction:
            epochs.note_claim(transaction, row)
        return Paid(account, row.amount, row.cumulative, row.tx_hash)
