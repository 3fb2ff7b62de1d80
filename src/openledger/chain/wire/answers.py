"""Strict reading of a node's answers: a malformed one is no answer, never a guess.

Nodes, their proxies and whoever sits between may say anything; each reader here returns what the
JSON-RPC specification of Ethereum promises or raises `ChainUnavailableError`.
"""

from typing import Annotated, Any

import msgspec

from openledger.core.errors import ChainUnavailableError
from openledger.core.types import Account, Digest, Wei

# Possessive repeats: a long result must not cost the matcher a multiple of its size.
_Amount = Annotated[str, msgspec.Meta(pattern=r"^0x[0-9a-fA-F]{1,64}\Z")]
_Count = Annotated[str, msgspec.Meta(pattern=r"^0x0*+[0-9a-fA-F]{0,15}\Z", min_length=3)]  # 60 bits
_Bytes = Annotated[str, msgspec.Meta(pattern=r"^0x(?:[0-9a-fA-F]{2})*+\Z")]
_Word = Annotated[str, msgspec.Meta(pattern=r"^0x[0-9a-fA-F]{64}\Z")]
_Address = Annotated[str, msgspec.Meta(pattern=r"^0x[0-9a-fA-F]{40}\Z")]


class Block(msgspec.Struct, frozen=True):
    """What we keep of a block's header."""

    number: int
    hash: Digest
    parent: Digest
    timestamp: int
    base_fee: Wei


class Log(msgspec.Struct, frozen=True):
    """One log of a mined transaction; topics and data as bytes."""

    number: int
    block_hash: Digest
    log_index: int
    tx_hash: Digest
    contract: Account
    topics: tuple[bytes, ...]
    data: bytes


class Receipt(msgspec.Struct, frozen=True):
    """How a transaction went."""

    tx_hash: Digest
    number: int
    block_hash: Digest
    succeeded: bool
    gas_used: int
    created: Account | None


class Refusal(msgspec.Struct, frozen=True):
    """The error of a JSON-RPC answer; `data` is what a contract returned, if it did."""

    code: int
    message: str = ""
    data: Any = None


class _BlockForm(msgspec.Struct, rename="camel"):
    number: _Count
    hash: _Word
    parent_hash: _Word
    timestamp: _Count
    base_fee_per_gas: _Amount | None = None  # None: a chain without EIP-1559


class _LogForm(msgspec.Struct, rename="camel"):
    block_number: _Count
    block_hash: _Word
    log_index: _Count
    transaction_hash: _Word
    address: _Address
    topics: Annotated[list[_Word], msgspec.Meta(max_length=4)]
    data: _Bytes


class _ReceiptForm(msgspec.Struct, rename="camel"):
    block_number: _Count
    block_hash: _Word
    status: _Count
    gas_used: _Count
    contract_address: _Address | None = None


class _MaybeMined(msgspec.Struct, rename="camel"):
    block_number: str | None = None


def result_of(answer: object) -> object | Refusal:
    """The result of a JSON-RPC answer, or its error."""
    envelope = _checked(answer, dict[str, object])
    if envelope.get("error") is not None:
        refusal: Refusal = _checked(envelope["error"], Refusal)
        return refusal
    if "result" not in envelope:
        raise _malformed("it has neither result nor error")
    found: object = envelope["result"]
    return found


def amount(found: object) -> Wei:
    """A number of wei."""
    return Wei(int(_checked(found, _Amount), 16))


def count(found: object) -> int:
    """A height, a nonce, gas, seconds: below 2**60, so that every database holds it."""
    return int(_checked(found, _Count), 16)


def raw(found: object) -> bytes:
    """Bytes in hex."""
    return bytes.fromhex(_checked(found, _Bytes)[2:])


def block(found: object) -> Block | None:
    """A header; None for a block that does not exist."""
    if found is None:
        return None
    form: _BlockForm = _checked(found, _BlockForm)
    return Block(
        number=count(form.number),
        hash=_digest(form.hash),
        parent=_digest(form.parent_hash),
        timestamp=count(form.timestamp),
        base_fee=amount(form.base_fee_per_gas or "0x0"),
    )


def receipt(found: object, tx_hash: Digest) -> Receipt | None:
    """The receipt of a transaction; None for one that is not mined."""
    if found is None or _checked(found, _MaybeMined).block_number is None:
        return None
    form: _ReceiptForm = _checked(found, _ReceiptForm)
    return Receipt(
        tx_hash=tx_hash,
        number=count(form.block_number),
        block_hash=_digest(form.block_hash),
        succeeded=count(form.status) == 1,
        gas_used=count(form.gas_used),
        created=Account(form.contract_address.lower()) if form.contract_address else None,
    )


def logs(found: object) -> list[Log]:
    """Logs in the chain's order."""
    forms: list[_LogForm] = _checked(found, list[_LogForm])
    read = [
        Log(
            number=count(form.block_number),
            block_hash=_digest(form.block_hash),
            log_index=count(form.log_index),
            tx_hash=_digest(form.transaction_hash),
            contract=Account(form.address.lower()),
            topics=tuple(raw(topic) for topic in form.topics),
            data=raw(form.data),
        )
        for form in forms
    ]
    return sorted(read, key=lambda log: (log.number, log.log_index))


def _checked(found: object, kind: Any) -> Any:  # noqa: ANN401 - an annotated type has no type
    try:
        return msgspec.convert(found, kind)
    except msgspec.ValidationError as error:
        raise _malformed(str(error)) from error


def _malformed(why: str) -> ChainUnavailableError:
    return ChainUnavailableError(
        f"the node's answer is malformed ({why}); try again later or give --chain another node"
    )


def _digest(word: str) -> Digest:
    return Digest(word[2:].lower())
