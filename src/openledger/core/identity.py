"""The money identity: what the chain says, what the books say, and which lines do not hold."""

import msgspec

from openledger.core.types import Wei


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


class Totals(msgspec.Struct, frozen=True):
    """One gateway's sums; wei unless said otherwise."""

    receipts: int  # how many
    deposited: Wei
    spent: Wei  # as Escrow says
    withdrawn: Wei
    held: Wei  # open holds
    fees: Wei  # of all receipts
    drawn: Wei  # of the settled epochs
    promised: Wei  # by the active one of them
    claimed: Wei


class Identity(msgspec.Struct, frozen=True):
    """Both sums, and every line that does not hold."""

    holds: bool
    chain: OnChain
    database: Totals
    broken: tuple[str, ...]
    checked: tuple[str, ...]  # every line, broken or not
