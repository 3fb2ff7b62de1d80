"""An epoch: a closed range of one gateway's receipts, settled and paid together.

A pure function of the receipts, so anyone can redo it. Payouts are cumulative per (gateway,
account): one claim pays all epochs missed, and an old proof never pays twice.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from eth_abi.abi import encode

from openledger.core.errors import ConflictError, VerificationError
from openledger.core.merkle import Proof, Tree
from openledger.core.signing import Domain
from openledger.core.types import Account, Digest, Wei
from openledger.settlement.receipt import (
    CallReceipt,
    Receipt,
    leaf,
    leaf_of,
    verify_chain,
    verify_follows,
)


class Payout(msgspec.Struct, frozen=True):
    """Everything one account ever earned through one gateway."""

    account: Account
    cumulative: Wei


class Epoch(msgspec.Struct, frozen=True):
    """One epoch, as it is anchored."""

    gateway: Account
    first: int  # gateway_sequence of its first receipt
    size: int  # receipts
    root: Digest  # over the pairs
    drawn: Wei  # fees of this epoch
    payouts: tuple[Payout, ...]  # by account, rising
    payouts_root: Digest
    promised: Wei  # the sum of all payouts


class Claim(msgspec.Struct, frozen=True):
    """A payout with the proof that the contract asks for."""

    payout: Payout
    proof: Proof


class Before(msgspec.Struct, frozen=True):
    """Where the gateway stood when the epoch began."""

    last: CallReceipt | None = None  # of the epoch before; None for the first
    cumulative: Mapping[Account, Wei] = {}


def close(
    domain: Domain,
    payouts_contract: Account,
    receipts: Sequence[Receipt],
    before: Before,
) -> Epoch:
    """Close an epoch over consecutive receipts, right after what was settled before.

    Invariant: `promised` grows by exactly `drawn`.

    Raises:
        ConflictError: there is no receipt.
        VerificationError: the receipts do not chain.
    """
    if not receipts:
        raise ConflictError("an epoch needs at least one receipt; make a call first")
    calls = tuple(receipt.call.call for receipt in receipts)
    verify_follows(domain, calls[0], before.last)
    verify_chain(domain, calls)
    cumulative = {account: int(amount) for account, amount in before.cumulative.items()}
    for receipt in receipts:
        for part in receipt.statement.body.parts:
            cumulative[part.account] = cumulative.get(part.account, 0) + part.amount
    payouts = tuple(Payout(account, Wei(cumulative[account])) for account in sorted(cumulative))
    gateway = calls[0].gateway
    return Epoch(
        gateway=gateway,
        first=calls[0].gateway_sequence,
        size=len(receipts),
        root=receipt_tree(domain, receipts).root,
        drawn=Wei(sum(call.fee for call in calls)),
        payouts=payouts,
        payouts_root=payout_tree(domain, payouts_contract, gateway, payouts).root,
        promised=Wei(sum(cumulative.values())),
    )


def receipt_tree(domain: Domain, receipts: Sequence[Receipt]) -> Tree:
    """The tree over the pairs of an epoch, in the order of their sequence."""
    return Tree([leaf(domain, receipt) for receipt in receipts])


def tree_of(digests: Iterable[tuple[Digest, Digest]], root: Digest) -> Tree:
    """The tree of a closed epoch from the digests of its calls and statements alone.

    Raises:
        VerificationError: their root is another one.
    """
    tree = Tree([leaf_of(*pair) for pair in digests])
    if tree.root != root:
        raise VerificationError(f"the receipts stored here are not those of the epoch {root}")
    return tree


def payout_tree(
    domain: Domain, payouts_contract: Account, gateway: Account, payouts: Sequence[Payout]
) -> Tree:
    """The tree over cumulative payouts, by account."""
    return Tree([payout_leaf(domain.chain_id, payouts_contract, gateway, p) for p in payouts])


def payout_leaf(
    chain_id: int, payouts_contract: Account, gateway: Account, payout: Payout
) -> bytes:
    """abi.encode(chain, contract, gateway, account, cumulative): 160 bytes, as `Payouts.vy`."""
    return encode(
        ["uint256", "address", "address", "address", "uint256"],
        [chain_id, payouts_contract, gateway, payout.account, payout.cumulative],
    )
