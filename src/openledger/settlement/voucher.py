"""Vouchers: a payer's signed, cumulative promise to one gateway.

The shape is x402's batch settlement: one signature covers every call until its limit is reached.
The channel id binds chain, escrow, token, payer, gateway and the payer's own conditions.
"""

import msgspec
from eth_abi.abi import encode
from eth_utils.crypto import keccak

from openledger.core.signing import Domain, TypedRecord, public_key_of, sign_typed, verify_typed
from openledger.core.types import Account, Digest, Wei, as_bytes


class Channel(msgspec.Struct, frozen=True):
    """One payer's conditions at one gateway."""

    payer: Account
    gateway: Account
    expiry: int  # unix seconds
    price_ceiling: Wei  # the most per 1,000 tokens, input or output
    daily_cap: Wei  # the most per UTC day
    min_data_bps: int  # refuses releases that pay contributors less
    salt: Digest


class Voucher(TypedRecord, frozen=True):
    """A limit over everything the payer ever owes this gateway."""

    solidity = {"channelId": "bytes32", "maxClaimableAmount": "uint128"}  # noqa: RUF012 - ClassVar

    channel_id: Digest
    limit: Wei


class SignedVoucher(msgspec.Struct, frozen=True):
    """A voucher with the conditions behind its channel id."""

    channel: Channel
    limit: Wei
    signature: str


def channel_id(domain: Domain, token: Account, channel: Channel) -> Digest:
    """keccak256 over the fixed-width fields; `Escrow.vy` recomputes it."""
    packed = encode(
        ["uint256", "address", "address", "address", "address"] + ["uint256"] * 4 + ["bytes32"],
        [
            domain.chain_id,
            domain.contract,
            token,
            channel.payer,
            channel.gateway,
            channel.expiry,
            channel.price_ceiling,
            channel.daily_cap,
            channel.min_data_bps,
            as_bytes(channel.salt),
        ],
    )
    return Digest(keccak(packed).hex())


def sign_voucher(
    domain: Domain, token: Account, channel: Channel, limit: Wei, private_key: bytes
) -> SignedVoucher:
    """Promise at most `limit` wei, over all calls ever."""
    voucher = Voucher(channel_id(domain, token, channel), limit)
    return SignedVoucher(channel, limit, sign_typed(domain, voucher, private_key))


def payer_key(domain: Domain, token: Account, signed: SignedVoucher) -> bytes:
    """The public key of whoever signed a voucher, 64 bytes: what is private is encrypted to it.

    Raises:
        VerificationError: no key can have made the signature.
    """
    voucher = Voucher(channel_id(domain, token, signed.channel), signed.limit)
    return public_key_of(domain, voucher, signed.signature)


def verify_voucher(
    domain: Domain, token: Account, signed: SignedVoucher, controller: Account
) -> None:
    """Check that the payer's present controller signed this limit for this channel.

    Raises:
        VerificationError: somebody else did.
    """
    voucher = Voucher(channel_id(domain, token, signed.channel), signed.limit)
    verify_typed(domain, voucher, signed.signature, controller)
