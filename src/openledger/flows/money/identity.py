"""The money identity: does every wei stand where it should, on chain and in the books alike?

    deposits  = spent + withdrawn + free
    spent + what gateways paid for their payers
              = the fees of all settled receipts = the sum of their parts
    promised - claimed <= what Payouts holds
    supply is constant

Chain and database are summed up apart from each other, then compared.
"""

from dataclasses import dataclass

import msgspec

from openledger.chain.acts import Acts
from openledger.chain.contracts import escrow_balance
from openledger.core.encoding import decode
from openledger.core.types import WEI_PER_OPEN, Account, Digest, Wei
from openledger.settlement.receipt import SignedStatement
from openledger.storage.database import Database, Transaction
from openledger.storage.records.money import balances, calls, epochs, totals

SUPPLY = Wei(1_000_000_000 * WEI_PER_OPEN)


class OnChain(msgspec.Struct, frozen=True):
    """What the contracts say of one gateway, in wei."""

    supply: Wei
    escrow_holds: Wei
    deposited: Wei
    spent: Wei
    withdrawn: Wei
    drawn: Wei  # by settled receipts
    covered: Wei  # of it, paid by the gateway for its payers
    payouts_holds: Wei
    funded: Wei
    promised: Wei
    paid: Wei


class Identity(msgspec.Struct, frozen=True):
    """Both sums, and every line that does not hold."""

    holds: bool
    chain: OnChain
    database: totals.Totals
    broken: tuple[str, ...]


class _Root(msgspec.Struct, frozen=True):
    root: Digest


def _settled_parts(transaction: Transaction, gateway: Account, settled: int) -> int:
    """Every part of every receipt of the first epochs, read from the signed statements."""
    size = sum(epoch.size for epoch in epochs.list_all(transaction, gateway)[:settled])
    if size == 0:
        return 0
    pairs = calls.pairs(transaction, gateway, balances.FIRST_SEQUENCE, size)
    statements = (decode(pair.statement.record, SignedStatement) for pair in pairs)
    return sum(part.amount for said in statements for part in said.body.parts)


@dataclass(frozen=True)
class CheckIdentity:
    """Checks one gateway, which is the only one of its contracts in an embedded installation."""

    database: Database
    acts: Acts
    gateway: Account

    def run(self, payers: tuple[Account, ...]) -> Identity:
        """Sum up and compare; `payers` are all that the books know of.

        Raises:
            VerificationError: the database contradicts itself.
            ChainUnavailableError: the chain does not answer.
        """
        progress, chain = self._progress(), self._chain(payers)
        with self.database.read() as transaction:
            books = totals.totals(transaction, self.gateway, progress)
            parts = _settled_parts(transaction, self.gateway, progress.settled)
        lines = {
            "the supply is constant": chain.supply == SUPPLY,
            # At least: anyone may send a contract OPEN that belongs to nobody.
            "Escrow holds what is neither spent nor withdrawn": chain.escrow_holds
            >= chain.deposited - chain.spent - chain.withdrawn,
            "Escrow's draws are what payers spent and the gateway covered": chain.drawn
            == chain.spent + chain.covered,
            "Payouts was funded with what was drawn": chain.funded == chain.drawn,
            "Payouts promised no more than it was funded with": chain.promised <= chain.funded,
            "Payouts paid no more than it promised": chain.paid <= chain.promised,
            "Payouts holds what it has not paid": chain.payouts_holds >= chain.funded - chain.paid,
            "the parts of all settled receipts are what was drawn": parts == chain.drawn,
            "chain and books agree on deposits": chain.deposited == books.deposited,
            "chain and books agree on draws": chain.drawn == books.drawn,
            "chain and books agree on promises": chain.promised == books.promised,
            "chain and books agree on claims": chain.paid == books.claimed,
        }
        broken = tuple(line for line, is_true in lines.items() if not is_true)
        return Identity(not broken, chain, books, broken)

    def _progress(self) -> totals.Progress:
        read = self.acts.contracts.read
        newest = read(int, "Payouts", "root_count", self.gateway)
        active = read(_Root, "Payouts", "roots", self.gateway, newest).root if newest else None
        return totals.Progress(read(int, "Escrow", "epoch_count", self.gateway), active)

    def _chain(self, payers: tuple[Account, ...]) -> OnChain:
        contracts = self.acts.contracts
        where = contracts.deployment

        def ask(contract: str, function: str, *arguments: str) -> Wei:
            return Wei(contracts.read(int, contract, function, *arguments))

        balances = [escrow_balance(contracts, payer, self.gateway) for payer in payers]
        return OnChain(
            supply=ask("OpenToken", "totalSupply"),
            escrow_holds=ask("OpenToken", "balanceOf", where.escrow),
            deposited=Wei(sum(one.deposited for one in balances)),
            spent=Wei(sum(one.spent for one in balances)),
            withdrawn=Wei(sum(one.withdrawn for one in balances)),
            drawn=ask("Escrow", "drawn", self.gateway),
            covered=ask("Escrow", "covered", self.gateway),
            payouts_holds=ask("OpenToken", "balanceOf", where.payouts),
            funded=ask("Payouts", "funded", self.gateway),
            promised=ask("Payouts", "promised", self.gateway),
            paid=ask("Payouts", "paid", self.gateway),
        )
