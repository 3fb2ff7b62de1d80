"""What payers leave unpaid of an epoch, and the gateway's approval to pay it for them.

A call is served on a voucher and on money in Escrow. Until its epoch is settled the voucher may
expire, another key may come to sign for the payer, or an exit may take the money. `Escrow.settle`
then takes what is missing from the gateway's controller, never more than was approved; what comes
in later goes back to the gateway.
"""

from collections.abc import Sequence

import msgspec
import structlog

from openledger.chain.acts import Acts
from openledger.chain.contracts import OPERATOR, Contracts, escrow_balance
from openledger.chain.outbox.rows import op_id
from openledger.core.errors import InsufficientBalanceError, VerificationError
from openledger.core.types import Account, Wei
from openledger.settlement.voucher import SignedVoucher, verify_voucher

log = structlog.get_logger()


class Due(msgspec.Struct, frozen=True):
    """What one payer owes by the end of an epoch, over all calls ever, and his voucher for it."""

    voucher: SignedVoucher
    total: Wei


def unpaid(contracts: Contracts, dues: Sequence[Due], now_s: int) -> Wei:
    """What `Escrow.settle` would take from the gateway for these payers, if it came now.

    Raises:
        ChainUnavailableError: the chain does not answer.
    """
    fees = paid = 0
    for due in dues:
        payer, gateway = due.voucher.channel.payer, due.voucher.channel.gateway
        view = escrow_balance(contracts, payer, gateway)
        fees += due.total - contracts.read(int, "Escrow", "charged", payer, gateway)
        if _counts(contracts, due.voucher, now_s):
            paid += min(due.total, view.deposited - view.withdrawn) - view.spent
    return Wei(max(0, fees - paid))


def approve(acts: Acts, gateway: Account, epoch: int, amount: Wei) -> None:
    """Let Escrow take this much from the gateway's controller, the operator.

    Raises:
        InsufficientBalanceError: it does not hold as much.
        ChainUnavailableError: the chain is down; call again.
    """
    contracts = acts.contracts
    escrow = contracts.deployment.escrow
    controller = contracts.read(str, "Identity", "controller_of", gateway)
    held = contracts.read(int, "OpenToken", "balanceOf", controller)
    if held < amount:
        raise InsufficientBalanceError(
            f"payers left {amount} wei of epoch {epoch} unpaid, which the gateway pays for them, "
            f"and {controller} holds {held}; send it OPEN, then settle again"
        )
    log.warning("the gateway pays for its payers", epoch=epoch, wei=amount)
    if contracts.read(int, "OpenToken", "allowance", controller, escrow) < amount:
        write = contracts.write("OpenToken", "approve", escrow, amount, acting=OPERATOR)
        acts.perform({op_id("cover", gateway, epoch, amount): write})


def _counts(contracts: Contracts, voucher: SignedVoucher, now_s: int) -> bool:
    payer = voucher.channel.payer
    controller = Account(contracts.read(str, "Identity", "controller_of", payer))
    try:
        verify_voucher(
            contracts.domain("Escrow"), contracts.deployment.open_token, voucher, controller
        )
    except VerificationError:
        return False
    return now_s <= voucher.channel.expiry
