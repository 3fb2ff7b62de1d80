"""OPEN and gas money for newcomers of a development chain, out of the operator's own."""

from openledger.chain.contracts import Contracts, Write
from openledger.chain.outbox.outbox import Outbox
from openledger.chain.outbox.rows import op_id
from openledger.core.errors import NotAllowedError
from openledger.core.types import Account, Digest, Wei
from openledger.storage.database import Transaction


def give(
    transaction: Transaction,
    outbox: Outbox,
    contracts: Contracts,
    to: Account,
    amount: Wei,
    occasion: str,
) -> Digest:
    """Queue a gift of OPEN; one occasion gives once.

    Args:
        transaction: of the caller's business change.
        outbox: where it is queued.
        contracts: of a development chain.
        to: who gets it.
        amount: wei of OPEN.
        occasion: what makes it unique, "wallet/alice" for example.

    Returns:
        The operation to wait for.

    Raises:
        NotAllowedError: this is no development chain.
    """
    _check(contracts)
    op = op_id("faucet", "open", to, occasion)
    outbox.submit(transaction, op, contracts.write("OpenToken", "transfer", to, amount))
    return op


def give_gas(
    transaction: Transaction,
    outbox: Outbox,
    contracts: Contracts,
    to: Account,
    amount: Wei,
    occasion: str,
) -> Digest:
    """Queue a gift of the chain's own coin, for those who send transactions themselves.

    Raises:
        NotAllowedError: this is no development chain.
    """
    _check(contracts)
    op = op_id("faucet", "gas", to, occasion)
    outbox.submit(transaction, op, Write("gas", to, b"", amount))
    return op


def _check(contracts: Contracts) -> None:
    profile = contracts.client.config.profile
    if not profile.is_development:
        raise NotAllowedError(f"{profile.name} is a real chain: nobody gives money away there")
