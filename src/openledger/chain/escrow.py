"""What `Escrow` keeps of one payer at one gateway."""

import msgspec

from openledger.chain.contracts import Contracts
from openledger.core.types import Account


class EscrowBalance(msgspec.Struct, frozen=True):
    """Wei that only ever rise; free is deposited - spent - withdrawn."""

    deposited: int
    spent: int
    withdrawn: int


def escrow_balance(contracts: Contracts, payer: Account, gateway: Account) -> EscrowBalance:
    """Ask the contract.

    Raises:
        ChainUnavailableError: the chain does not answer.
    """
    return contracts.read(EscrowBalance, "Escrow", "balance_of", payer, gateway)
