"""EIP-712 signatures over fixed-width structs.

Every struct binds chain and contract through its domain, and its version through a field or the
domain. Where a contract reads the same struct, `tests/vectors/signing.json` holds both to it.
"""

from collections.abc import Mapping
from typing import ClassVar

import msgspec
from eth_abi.exceptions import EncodingError
from eth_account import Account as Keys
from eth_account.messages import SignableMessage, encode_typed_data
from eth_keys.datatypes import Signature
from eth_keys.exceptions import BadSignature
from eth_utils.crypto import keccak
from eth_utils.exceptions import ValidationError

from openledger.core.errors import VerificationError
from openledger.core.types import Account, Digest, account

SIGNATURE_BYTES = 65

Field = int | str


class Domain(msgspec.Struct, frozen=True):
    """The EIP-712 domain: one contract on one chain."""

    chain_id: int
    contract: Account


class TypedRecord(msgspec.Struct, frozen=True):
    """A fixed-width struct that a contract can read; subclasses list their Solidity types.

    `solidity` maps each field, in order, to its type. Digests are given as hex and signed as
    bytes32.
    """

    solidity: ClassVar[Mapping[str, str]]

    def message(self) -> dict[str, Field]:
        """The values under their Solidity names."""
        names = zip(self.solidity, self.__struct_fields__, strict=True)
        return {name: getattr(self, field) for name, field in names}


def hash_typed(domain: Domain, record: TypedRecord) -> bytes:
    """The 32 bytes that are signed: keccak(0x1901 || domain || struct)."""
    message = _signable(domain, record)
    return keccak(b"\x19" + message.version + message.header + message.body)


def digest_typed(domain: Domain, record: TypedRecord) -> Digest:
    """The same 32 bytes in hex: the record's identity in receipt chains and leaves."""
    return Digest(hash_typed(domain, record).hex())


def sign_typed(domain: Domain, record: TypedRecord, private_key: bytes) -> str:
    """Sign with a secp256k1 key; 65 bytes r || s || v in hex."""
    return bytes(Keys.sign_message(_signable(domain, record), private_key).signature).hex()


def recover_typed(domain: Domain, record: TypedRecord, signature: str) -> Account:
    """Who signed.

    Raises:
        VerificationError: no key can have made this signature, or it is the malleable twin (high
            s) of one, which contracts refuse as well.
    """
    try:
        raw = bytes.fromhex(signature)
    except ValueError as error:
        raise VerificationError("the signature is not hex") from error
    if raw.hex() != signature:
        raise VerificationError("the signature is not in lower-case hex")
    if len(raw) != SIGNATURE_BYTES:
        raise VerificationError(f"a signature has {SIGNATURE_BYTES} bytes, not {len(raw)}")
    if int.from_bytes(raw[32:64], "big") > _HALF_ORDER:
        raise VerificationError("the signature has a high s: it is a copy of another one")
    if raw[-1] not in _RECOVERY_BYTES:
        raise VerificationError(f"a signature ends with 27 or 28, not with {raw[-1]}")
    try:
        return account(Keys.recover_message(_signable(domain, record), signature=raw))
    except (BadSignature, ValidationError, ValueError) as error:
        raise VerificationError("the signature fits no key") from error


def public_key_of(domain: Domain, record: TypedRecord, signature: str) -> bytes:
    """The public key that made a signature: 64 bytes, x then y, to encrypt to its owner.

    Raises:
        VerificationError: no key can have made this signature.
    """
    recover_typed(domain, record, signature)  # checks its form
    raw = bytes.fromhex(signature)
    canonical = Signature(raw[:-1] + bytes([raw[-1] - _RECOVERY_BYTES[0]]))
    return canonical.recover_public_key_from_msg_hash(hash_typed(domain, record)).to_bytes()


def verify_typed(domain: Domain, record: TypedRecord, signature: str, signer: Account) -> None:
    """Check who signed.

    Raises:
        VerificationError: somebody else did, or nobody.
    """
    found = recover_typed(domain, record, signature)
    if found != signer:
        raise VerificationError(f"{type(record).__name__} is signed by {found}, not by {signer}")


def address_of(private_key: bytes) -> Account:
    """The account of a key that never changed."""
    return account(Keys.from_key(private_key).address)


_RECOVERY_BYTES = (27, 28)  # contracts take no other form
_HALF_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141 // 2


def _signable(domain: Domain, record: TypedRecord) -> SignableMessage:
    fields = [{"name": name, "type": kind} for name, kind in record.solidity.items()]
    try:
        return _encoded(domain, record, fields)
    except (EncodingError, ValueError, TypeError) as error:
        raise VerificationError(
            f"a field of this {type(record).__name__} has no such type: {error}"
        ) from error


def _encoded(domain: Domain, record: TypedRecord, fields: list[dict[str, str]]) -> SignableMessage:
    return encode_typed_data(
        domain_data={
            "name": "OpenLedger",
            "version": "1",
            "chainId": domain.chain_id,
            "verifyingContract": domain.contract,
        },
        message_types={type(record).__name__: fields},
        message_data={
            name: "0x" + str(value) if record.solidity[name] == "bytes32" else value
            for name, value in record.message().items()
        },
    )
