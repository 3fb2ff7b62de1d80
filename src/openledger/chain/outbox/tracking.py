"""What became of the transactions that were sent: mined, final, failed, or taken back."""

from typing import Any

import msgspec

from openledger.chain.client import Client, Message
from openledger.chain.outbox.rows import Row, State
from openledger.chain.wire.answers import Receipt
from openledger.core.errors import ChainRejectedError
from openledger.core.types import Account


class Change(msgspec.Struct, frozen=True):
    """New column values of one row."""

    position: int
    values: dict[str, Any]


class Horizon(msgspec.Struct, frozen=True):
    """What the chain will not take back, as of one moment before the receipts are read."""

    height: int
    nonce: int  # how many transactions of the sender are in final blocks


def horizon(client: Client, sender: Account) -> Horizon:
    """Ask for the newest final block; receipts must be read after this."""
    tag = client.config.profile.finality
    return Horizon(client.height(tag), client.nonce(sender, tag))


def look_up(client: Client, row: Row, final: Horizon) -> Change | None:
    """See how a signed or mined row stands now; None when nothing changed.

    A transaction that no node knows is not lost: it is sent again. It can never be mined once its
    nonce stands in a final block without it, which happens only when the key is used elsewhere.
    """
    receipt = next(filter(None, (client.receipt(found) for found in row.hashes())), None)
    if receipt is not None:
        return _mined(client, row, receipt, final)
    if row.state is State.MINED:
        return Change(row.position, {"state": State.SIGNED.value, "block": None, "tx_hash": None})
    assert row.nonce is not None
    if row.nonce < final.nonce:
        reason = f"nonce {row.nonce} of {row.sender} was used by a transaction from elsewhere"
        return Change(row.position, {"state": State.FAILED.value, "error": reason})
    return None


def _mined(client: Client, row: Row, receipt: Receipt, final: Horizon) -> Change | None:
    values: dict[str, Any] = {
        "tx_hash": receipt.tx_hash,
        "block": receipt.number,
        "gas_used": receipt.gas_used,
    }
    if receipt.number > final.height:
        is_news = row.state is not State.MINED or row.block != receipt.number
        return Change(row.position, values | {"state": State.MINED.value}) if is_news else None
    if receipt.succeeded:
        return Change(row.position, values | {"state": State.FINAL.value, "error": None})
    reason = _reason(client, row, receipt)
    return Change(row.position, values | {"state": State.FAILED.value, "error": reason})


def _reason(client: Client, row: Row, receipt: Receipt) -> str:
    """Run it again on the state before its block, since a receipt does not keep the reason."""
    message = Message(row.sender, row.contract, row.calldata, row.value)
    try:
        client.call(message, receipt.number - 1)
    except ChainRejectedError as error:
        return str(error.details.get("reason", error))
    return f"it failed in block {receipt.number} after {receipt.gas_used} gas, without a reason"
