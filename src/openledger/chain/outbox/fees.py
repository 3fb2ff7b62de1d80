"""What a transaction offers for its place in a block, and its signing.

Fees follow EIP-1559: twice the present base fee plus the node's tip, never above the profile's
cap. A replacement on the same nonce must offer an eighth more, by the rule of every node.
"""

import msgspec
from eth_account import Account as Keys
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from hexbytes import HexBytes

from openledger.chain.client import Client, Message
from openledger.core.errors import UnavailableError
from openledger.core.types import ZERO_ACCOUNT, Account, Digest, Wei

_ORACLE = Account("0x420000000000000000000000000000000000000f")  # GasPriceOracle of OP Stack chains
_GET_L1_FEE = bytes.fromhex("49948e0e")  # getL1Fee(bytes)
_L1_MARGIN_PERCENT = 30  # the price of layer 1 moves until the batch is posted
_WORD = 32


class Fees(msgspec.Struct, frozen=True):
    """Wei per gas."""

    max_fee: Wei
    tip: Wei


class Draft(msgspec.Struct, frozen=True):
    """A transaction without its signature."""

    message: Message
    chain_id: int
    nonce: int
    gas: int
    fees: Fees


class Signed(msgspec.Struct, frozen=True):
    """A transaction as nodes take it."""

    raw: bytes
    hash: Digest


def present_fees(client: Client) -> Fees:
    """What to offer now.

    Raises:
        UnavailableError: even the base fee is above the profile's cap; wait.
    """
    base, tip = client.newest().base_fee, client.tip()
    cap = client.config.profile.max_fee_wei
    if base + tip > cap:
        raise UnavailableError(f"gas costs {base + tip} wei now, above the cap of {cap}; waiting")
    return Fees(Wei(min(2 * base + tip, cap)), tip)


def bumped(old: Fees, present: Fees, cap: int) -> Fees | None:
    """Fees that replace `old` on the same nonce; None when the cap forbids it."""
    max_fee = Wei(max(present.max_fee, old.max_fee + old.max_fee // 8 + 1))
    tip = Wei(max(present.tip, old.tip + old.tip // 8 + 1))
    return None if max_fee > cap else Fees(max_fee, min(tip, max_fee, key=int))


def sign(draft: Draft, private_key: bytes) -> Signed:
    """Sign as an EIP-1559 transaction."""
    fields = {
        "type": 2,
        "chainId": draft.chain_id,
        "nonce": draft.nonce,
        "gas": draft.gas,
        "maxFeePerGas": draft.fees.max_fee,
        "maxPriorityFeePerGas": draft.fees.tip,
        "value": draft.message.value,
        "data": draft.message.calldata,
    }
    if draft.message.contract != ZERO_ACCOUNT:
        fields["to"] = bytes.fromhex(draft.message.contract.removeprefix("0x"))
    signed = Keys.sign_transaction(fields, private_key)
    return Signed(bytes(signed.raw_transaction), Digest(bytes(signed.hash).hex()))


def redraft(raw: bytes, sender: Account) -> Draft:
    """Read back what `sign` signed."""
    fields = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()
    to = bytes(fields["to"])
    contract = Account("0x" + to.hex()) if to else ZERO_ACCOUNT
    return Draft(
        message=Message(sender, contract, bytes(fields["data"]), Wei(fields["value"])),
        chain_id=fields["chainId"],
        nonce=fields["nonce"],
        gas=fields["gas"],
        fees=Fees(Wei(fields["maxFeePerGas"]), Wei(fields["maxPriorityFeePerGas"])),
    )


def check_funds(client: Client, draft: Draft, raw: bytes) -> None:
    """On an OP Stack chain, see that the sender can pay layer 1 as well; elsewhere nodes do.

    Raises:
        UnavailableError: it cannot; fund it.
    """
    if not client.config.profile.is_op_stack:
        return
    padded = raw + bytes(-len(raw) % _WORD)
    calldata = _GET_L1_FEE + _WORD.to_bytes(_WORD, "big") + len(raw).to_bytes(_WORD, "big") + padded
    answer = client.call(Message(draft.message.sender, _ORACLE, calldata))
    layer_1 = int.from_bytes(answer, "big") * (100 + _L1_MARGIN_PERCENT) // 100
    cost = draft.gas * draft.fees.max_fee + draft.message.value + layer_1
    balance = client.balance(draft.message.sender)
    if balance < cost:
        raise UnavailableError(
            f"{draft.message.sender} has {balance} wei of gas money and needs {cost}; fund it"
        )
