"""What a home holds after the tiny demonstration, counted on chain and in the books apart.

What depends on the run's seed, which no two homes share, is checked within its home by `ledger`;
what every home must hold alike is in `Totals`, to be compared with another home's.
"""

from collections import Counter

import msgspec
from sqlalchemy import Column, func, select

from openledger.chain.outbox.rows import OPEN, State
from openledger.core.types import Account, Wei
from openledger.storage.database import Transaction
from openledger.storage.records.data import contributions, datanets
from openledger.storage.records.model import releases, runs
from openledger.storage.records.money import balances, calls, epochs
from openledger.storage.tables import call_receipts, holds, idempotency_keys, outbox
from openledger.wiring.platform import Platform

_BY_SEED = "Payouts.claim"  # as many as there are accounts that earned something


class Totals(msgspec.Struct, frozen=True):
    """What must not depend on how often the process died."""

    datanets: int
    contributions: int
    approved: int
    runs: int
    releases: int
    receipts: int
    charged_holds: int
    open_holds: int
    answered_calls: int  # by idempotency key
    deposited: Wei
    epochs: int
    settled: int  # receipts that stand in an epoch
    writes: dict[str, int]  # what the outbox ever sent, by contract and function


def count(platform: Platform) -> Totals:
    """Count the books."""
    gateway = platform.gateway.account
    deposited = platform.check_identity.run().chain.deposited
    with platform.database.transaction() as transaction:
        known = datanets.list_all(transaction)
        rows = [row for one in known for row in contributions.of_datanet(transaction, one.id)]
        approved = [one for one in rows if one.state is contributions.ContributionState.APPROVED]
        by_state = _by(transaction, holds.c.state)
        return Totals(
            datanets=len(known),
            contributions=len(rows),
            approved=len(approved),
            runs=len(runs.list_all(transaction)),
            releases=len(releases.list_all(transaction)),
            receipts=_by(transaction, call_receipts.c.gateway).total(),
            charged_holds=by_state[balances.HoldState.CHARGED.value],
            open_holds=by_state[balances.HoldState.OPEN.value],
            answered_calls=_by(transaction, idempotency_keys.c.key).total(),
            deposited=deposited,
            epochs=len(epochs.list_all(transaction, gateway)),
            settled=epochs.next_first(transaction, gateway) - balances.FIRST_SEQUENCE,
            writes={
                label: number
                for label, number in sorted(_by(transaction, outbox.c.label).items())
                if label != _BY_SEED
            },
        )


def ledger(platform: Platform) -> dict[str, tuple[object, object]]:
    """Pairs that are equal in a sound home: what the books say, what the chain or the sums say."""
    contracts = platform.acts.contracts
    gateway = platform.gateway.account

    def ask(contract: str, function: str, *arguments: str) -> int:
        return contracts.read(int, contract, function, *arguments)

    totals = count(platform)
    with platform.database.transaction() as transaction:
        fees = sum(call.fee for call in calls.in_order(transaction, gateway))
        closed = epochs.list_all(transaction, gateway)
        promised = epochs.earned_so_far(transaction, gateway)
        # No key moves commons, the Payouts contract's own address.
        promised.pop(contracts.deployment.payouts, None)
        paid = Counter[Account]()
        for row in epochs.claims_of(transaction, gateway):
            paid[row.account] += row.amount
        unfinished = [
            row for row in _by(transaction, outbox.c.state) if row in {*OPEN, State.FAILED}
        ]
        sent = _by(transaction, outbox.c.sender)
    return {
        "datanets": (totals.datanets, ask("Datanets", "datanet_count")),
        "contributions": (totals.contributions, ask("Datanets", "contribution_count")),
        "runs": (totals.runs, ask("Models", "run_count")),
        "releases": (totals.releases, ask("Models", "release_count")),
        "epochs": (totals.epochs, ask("Escrow", "epoch_count", gateway)),
        "drawn by all epochs": (sum(epoch.drawn for epoch in closed), fees),
        "drawn on chain": (fees, ask("Escrow", "drawn", gateway)),
        "noted claims": (dict(paid), promised),
        "claims on chain": (
            promised,
            {one: ask("Payouts", "claimed", gateway, one) for one in promised},
        ),
        "transactions": (dict(sent), {one: contracts.client.nonce(Account(one)) for one in sent}),
        "writes that did not end well": (unfinished, []),
        "broken lines of the money identity": (platform.check_identity.run().broken, ()),
    }


def _by(transaction: Transaction, column: Column[str]) -> Counter[str]:
    """How many rows there are of each value."""
    query = select(column, func.count()).group_by(column)
    return Counter({str(value): number for value, number in transaction.connection.execute(query)})
