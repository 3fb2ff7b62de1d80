"""The money identity: does every wei stand where it should, on chain and in the books alike?

    deposits  = spent + withdrawn + free
    spent + what gateways paid for their payers
              = the fees of all settled receipts = the sum of their parts
    promised - claimed <= what Payouts holds
    supply is constant

Chain and database are summed up apart from each other, then compared. What the books noted of the
chain is compared as it stands, before anybody renews it, with what the chain's events say it was: a
note may lag behind, since anyone may deposit for any payer and claim for any account, but every
figure in it must have been true once. A note of a block that the chain may still take back is not
judged yet.
"""

from collections import Counter
from dataclasses import dataclass

import msgspec

from openledger.chain.acts import Acts
from openledger.chain.contracts import escrow_balance
from openledger.chain.index.history import History, history
from openledger.chain.index.indexer import Indexer
from openledger.core.identity import Identity, OnChain, Totals
from openledger.core.types import WEI_PER_OPEN, Account, Digest, Wei
from openledger.settlement.receipt import read_statement
from openledger.storage.database import Database, Transaction
from openledger.storage.records.money import balances, calls, epochs, totals

SUPPLY = Wei(1_000_000_000 * WEI_PER_OPEN)


class _Root(msgspec.Struct, frozen=True):
    root: Digest


class _Books(msgspec.Struct, frozen=True):
    """What the database has, as of one moment."""

    totals: Totals
    parts: int  # of every settled receipt
    charged: dict[Account, int]  # payer -> the fees of his settled receipts
    noted: list[balances.EscrowBalance]
    claimed: dict[Account, int]


@dataclass(frozen=True)
class CheckIdentity:
    """Checks one gateway, which is the only one of its contracts in an embedded installation."""

    database: Database
    acts: Acts
    indexer: Indexer
    gateway: Account

    def run(self) -> Identity:
        """Sum up and compare, and change no figure in the books.

        Raises:
            VerificationError: the database contradicts itself.
            ChainUnavailableError: the chain does not answer.
            WrongChainError: another chain answers.
        """
        while True:
            progress = self._progress()
            found = self._compare(progress)
            if self._progress() == progress:  # else it settled meanwhile: sums of two moments
                return found

    def _compare(self, progress: totals.Progress) -> Identity:
        final = self.indexer.poll().final
        before = self._history()
        payers = before.payers()
        chain = self._chain(payers)
        charged = {payer: self._charged(payer) for payer in payers}
        with self.database.read() as transaction:
            books = self._books(transaction, progress, final)
        # Read once more: what came meanwhile explains what it changed.
        self.indexer.poll()
        after = self._history()
        lines = (
            _lines_of_chain(chain)
            | {
                "the contracts' figures are the sums of their events": _is_between(
                    chain, before, after
                ),
                "chain and books agree on what each payer was charged": books.charged
                == {payer: amount for payer, amount in charged.items() if amount},
            }
            | _lines_of_books(chain, books, after)
        )
        broken = tuple(line for line, is_true in lines.items() if not is_true)
        return Identity(not broken, chain, books.totals, broken, tuple(lines))

    def _history(self) -> History:
        escrow = self.indexer.events("Escrow", only_final=False)
        return history(self.gateway, escrow, self.indexer.events("Payouts", only_final=False))

    def _books(self, transaction: Transaction, progress: totals.Progress, final: int) -> _Books:
        claimed = Counter[Account]()
        for row in epochs.claims_of(transaction, self.gateway):
            claimed[row.account] += row.amount
        settled = epochs.list_all(transaction, self.gateway)[: progress.settled]
        parts, charged = _settled(transaction, self.gateway, sum(one.size for one in settled))
        payers = balances.payers(transaction, self.gateway)
        noted = [balances.escrow(transaction, self.gateway, payer) for payer in payers]
        return _Books(
            totals=totals.totals(transaction, self.gateway, progress),
            parts=parts,
            charged=charged,
            noted=[row for row in noted if row is not None and row.block <= final],
            claimed=dict(claimed),
        )

    def _progress(self) -> totals.Progress:
        read = self.acts.contracts.read
        newest = read(int, "Payouts", "root_count", self.gateway)
        active = read(_Root, "Payouts", "roots", self.gateway, newest).root if newest else None
        return totals.Progress(read(int, "Escrow", "epoch_count", self.gateway), active)

    def _charged(self, payer: Account) -> int:
        return self.acts.contracts.read(int, "Escrow", "charged", payer, self.gateway)

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


def _settled(
    transaction: Transaction, gateway: Account, size: int
) -> tuple[int, dict[Account, int]]:
    """All parts, read from the signed statements, and each payer's fees, of the first receipts."""
    parts = 0
    charged = Counter[Account]()
    if size:
        for pair in calls.pairs(transaction, gateway, balances.FIRST_SEQUENCE, size):
            said = read_statement(pair.statement.record)
            parts += sum(part.amount for part in said.body.parts)
            charged[pair.call.payer] += pair.call.fee
    return parts, {payer: amount for payer, amount in charged.items() if amount}


def _lines_of_chain(chain: OnChain) -> dict[str, bool]:
    return {
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
    }


def _is_between(chain: OnChain, before: History, after: History) -> bool:
    """Whether each figure is what the events added up to, some time while it was read."""
    return all(
        getattr(before, events).total() <= getattr(chain, figure) <= getattr(after, events).total()
        for figure, events in (
            ("deposited", "deposited"),
            ("spent", "spent"),
            ("withdrawn", "withdrawn"),
            ("drawn", "settled"),
            ("paid", "claimed"),
        )
    )


def _lines_of_books(chain: OnChain, books: _Books, events: History) -> dict[str, bool]:
    def noted(figure: str) -> bool:
        course = getattr(events, figure)
        return all(course.was(one.payer, getattr(one, figure)) for one in books.noted)

    return {
        "the parts of all settled receipts are what was drawn": books.parts == chain.drawn,
        "chain and books agree on deposits": noted("deposited"),
        "chain and books agree on what was spent": noted("spent"),
        "chain and books agree on withdrawals": noted("withdrawn"),
        "chain and books agree on draws": chain.drawn == books.totals.drawn,
        "chain and books agree on promises": chain.promised == books.totals.promised,
        "chain and books agree on claims": all(
            events.claimed.was(account, amount) for account, amount in books.claimed.items()
        ),
    }
