"""How blocks, transactions, receipts and logs look in JSON-RPC.

Source: the execution API specification, https://ethereum.github.io/execution-apis/.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from openledger.chain.devchain.evm import Header, MinedBlock, Transaction

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
Form: TypeAlias = dict[str, Json]

_FEE_MARKET_TYPES = frozenset({2, 4})


def quantity(number: int) -> str:
    """A number: hex without leading zeros."""
    return hex(number)


def text(raw: bytes) -> str:
    """Bytes: all of their hex digits."""
    return "0x" + raw.hex()


def block_form(block: MinedBlock) -> Form:
    """A block with the hash of its transaction, if it has one."""
    header = block.header
    return {
        "number": quantity(header.block_number),
        "hash": text(header.hash),
        "parentHash": text(header.parent_hash),
        "sha3Uncles": text(header.uncles_hash),
        "logsBloom": "0x" + int(header.bloom).to_bytes(256, "big").hex(),
        "transactionsRoot": text(header.transaction_root),
        "stateRoot": text(header.state_root),
        "receiptsRoot": text(header.receipt_root),
        "miner": text(header.coinbase),
        "difficulty": quantity(header.difficulty),
        "extraData": text(header.extra_data),
        "size": quantity(block.size_bytes),
        "gasLimit": quantity(header.gas_limit),
        "gasUsed": quantity(header.gas_used),
        "timestamp": quantity(header.timestamp),
        "mixHash": text(header.mix_hash),
        "nonce": text(header.nonce),
        "baseFeePerGas": quantity(header.base_fee_per_gas),
        "withdrawalsRoot": text(header.withdrawals_root),
        "blobGasUsed": quantity(header.blob_gas_used),
        "excessBlobGas": quantity(header.excess_blob_gas),
        "parentBeaconBlockRoot": text(header.parent_beacon_block_root),
        "requestsHash": text(header.requests_hash),
        "transactions": [] if block.transaction is None else [text(block.transaction.hash)],
        "withdrawals": [],
        "uncles": [],
    }


def transaction_form(transaction: Transaction, header: Header) -> Form:
    """A mined transaction."""
    kind = _type_of(transaction)
    form: Form = {
        "hash": text(transaction.hash),
        "type": quantity(kind),
        "nonce": quantity(transaction.nonce),
        "from": text(transaction.sender),
        "to": text(transaction.to) if transaction.to else None,
        "value": quantity(transaction.value),
        "gas": quantity(transaction.gas),
        "gasPrice": quantity(_price_paid(transaction, header)),
        "input": text(transaction.data),
        "r": quantity(transaction.r),
        "s": quantity(transaction.s),
        "v": quantity(transaction.y_parity if kind else transaction.v),
        "blockHash": text(header.hash),
        "blockNumber": quantity(header.block_number),
        "transactionIndex": "0x0",
    }
    if kind:
        form |= {
            "chainId": quantity(transaction.chain_id),
            "yParity": quantity(transaction.y_parity),
            "accessList": [
                {
                    "address": text(address),
                    "storageKeys": [text(k.to_bytes(32, "big")) for k in keys],
                }
                for address, keys in transaction.access_list
            ],
        }
    if kind in _FEE_MARKET_TYPES:
        form |= {
            "maxFeePerGas": quantity(transaction.max_fee_per_gas),
            "maxPriorityFeePerGas": quantity(transaction.max_priority_fee_per_gas),
        }
    return form


def receipt_form(block: MinedBlock, logs: Sequence[Form]) -> Form:
    """The receipt of the block's only transaction."""
    transaction, header = block.transaction, block.header
    assert transaction is not None
    assert block.receipt is not None
    succeeded = block.receipt.state_root == b"\x01"
    return {
        "transactionHash": text(transaction.hash),
        "transactionIndex": "0x0",
        "blockHash": text(header.hash),
        "blockNumber": quantity(header.block_number),
        "from": text(transaction.sender),
        "to": text(transaction.to) if transaction.to else None,
        "cumulativeGasUsed": quantity(block.receipt.gas_used),
        "gasUsed": quantity(block.receipt.gas_used),
        "effectiveGasPrice": quantity(_price_paid(transaction, header)),
        "contractAddress": text(block.created) if block.created and succeeded else None,
        "logs": logs,
        "logsBloom": "0x" + int(block.receipt.bloom).to_bytes(256, "big").hex(),
        "type": quantity(_type_of(transaction)),
        "status": quantity(int(succeeded)),
    }


def log_forms(block: MinedBlock) -> list[Form]:
    """The logs of the block's only transaction, if it has one."""
    if block.transaction is None or block.receipt is None:
        return []
    return [
        {
            "address": text(log.address),
            "topics": [text(topic.to_bytes(32, "big")) for topic in log.topics],
            "data": text(log.data),
            "blockHash": text(block.header.hash),
            "blockNumber": quantity(block.header.block_number),
            "blockTimestamp": quantity(block.header.timestamp),
            "transactionHash": text(block.transaction.hash),
            "transactionIndex": "0x0",
            "logIndex": quantity(index),
            "removed": False,
        }
        for index, log in enumerate(block.receipt.logs)
    ]


def _type_of(transaction: Transaction) -> int:
    kind = transaction.type_id
    return 0 if kind is None else int(kind)


def _price_paid(transaction: Transaction, header: Header) -> int:
    base = int(header.base_fee_per_gas)
    if _type_of(transaction) in _FEE_MARKET_TYPES:
        tip = min(transaction.max_priority_fee_per_gas, transaction.max_fee_per_gas - base)
        return int(base + tip)
    return int(transaction.gas_price)
