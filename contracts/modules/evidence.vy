# pragma version 0.4.3
# pragma evm-version cancun
"""
@title What `Escrow` must see before it draws: a receipt in the epoch, under a payer's voucher
@notice `openledger.settlement` makes vouchers, receipts and leaves; `tests/vectors/signing.json`
        holds both to the same bytes.
"""

from interfaces import IIdentity
from modules import merkle
from modules import signatures

RECEIPT_VERSION: constant(uint256) = 1


VOUCHER: constant(bytes32) = keccak256("Voucher(bytes32 channelId,uint128 maxClaimableAmount)")
CALL_RECEIPT: constant(bytes32) = keccak256(
    "CallReceipt(uint256 version,uint256 chainId,address escrow,address gateway,uint256 gatewaySequence,uint256 payerSequence,uint256 payerTotal,uint256 gatewayTotal,bytes32 previous,uint256 fee,uint256 termsVersion,bytes32 payerCommitment,bytes32 body)"
)

struct Channel:  # the payer's conditions; the gateway keeps those that only it can check
    payer: address
    gateway: address
    expiry: uint256  # unix seconds; no draw after it
    price_ceiling: uint256  # wei per 1,000 tokens
    daily_cap: uint256  # wei
    min_data_bps: uint256
    salt: bytes32

struct CallReceipt:
    version: uint256
    chain_id: uint256
    escrow: address
    gateway: address
    gateway_sequence: uint256  # from 1, without gaps
    payer_sequence: uint256
    payer_total: uint256  # wei of all calls of this payer here, this one included
    gateway_total: uint256  # wei of all calls here, this one included
    previous: bytes32
    fee: uint256
    terms_version: uint256
    payer_commitment: bytes32  # sha256(payer || salt)
    body: bytes32

struct Draw:
    channel: Channel
    limit: uint128  # wei, the voucher's
    voucher: Bytes[65]  # signature by the payer's controller
    receipt: CallReceipt
    attribution: bytes32  # digest of the attribution statement
    payer_salt: bytes32
    index: uint256  # of the leaf
    proof: DynArray[bytes32, merkle.MAX_PATH]


@internal
@view
def _channel_id(token: address, channel: Channel) -> bytes32:
    return keccak256(abi_encode(chain.id, self, token, channel))


@internal
@view
def _call_digest(receipt: CallReceipt) -> bytes32:
    return signatures._hash_typed(keccak256(abi_encode(CALL_RECEIPT, receipt)))


@internal
@view
def _check_receipt(gateway: address, size: uint256, root: bytes32, draw: Draw):
    receipt: CallReceipt = draw.receipt
    assert receipt.version == RECEIPT_VERSION, "escrow: unknown receipt version"
    assert receipt.chain_id == chain.id, "escrow: receipt of another chain"
    assert receipt.escrow == self, "escrow: receipt of another escrow"
    assert receipt.gateway == gateway, "escrow: receipt of another gateway"
    payer: bytes20 = convert(draw.channel.payer, bytes20)
    assert receipt.payer_commitment == sha256(
        concat(payer, draw.payer_salt)
    ), "escrow: receipt of another payer"
    leaf: Bytes[64] = concat(self._call_digest(receipt), draw.attribution)
    assert merkle._is_proof(
        merkle._leaf_hash(leaf), draw.index, size, draw.proof, root
    ), "escrow: bad proof"


@internal
@view
def _is_covered(identity: IIdentity, token: address, gateway: address, draw: Draw) -> bool:
    # A gateway that brings the wrong paper is refused. That time passes, or that the payer takes
    # other keys, is no fault of its epoch: the voucher then counts for nothing.
    assert draw.channel.gateway == gateway, "escrow: voucher for another gateway"
    assert draw.receipt.payer_total <= convert(draw.limit, uint256), "escrow: over limit"
    struct_hash: bytes32 = keccak256(
        abi_encode(VOUCHER, self._channel_id(token, draw.channel), draw.limit)
    )
    signer: address = signatures._signer_of(struct_hash, draw.voucher)
    controller: address = staticcall identity.controller_of(draw.channel.payer)
    return signer == controller and block.timestamp <= draw.channel.expiry
