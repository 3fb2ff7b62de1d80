# pragma version 0.4.3
# pragma evm-version cancun
"""
@title EIP-712 signatures under one domain per contract and chain
@notice Name "OpenLedger", version "1". `openledger.core.signing` makes what this module checks;
        `tests/vectors/signing.json` holds both to it. The domain is computed at every use, so
        that a fork of the chain, with another chain id, accepts nothing signed for this one.
"""

DOMAIN_TYPE: constant(bytes32) = keccak256(
    "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)
NAME_HASH: constant(bytes32) = keccak256("OpenLedger")
VERSION_HASH: constant(bytes32) = keccak256("1")

# Above half of the curve's order, s is the malleable twin of another signature.
HALF_ORDER: constant(bytes32) = (
    0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
)


@internal
@view
def _domain_separator() -> bytes32:
    return keccak256(abi_encode(DOMAIN_TYPE, NAME_HASH, VERSION_HASH, chain.id, self))


@internal
@view
def _hash_typed(struct_hash: bytes32) -> bytes32:
    return keccak256(concat(x"1901", self._domain_separator(), struct_hash))


@internal
@view
def _signer_of(struct_hash: bytes32, signature: Bytes[65]) -> address:
    assert len(signature) == 65, "signature: 65 bytes needed"
    return self._recover(
        struct_hash,
        convert(slice(signature, 64, 1), uint256),
        extract32(signature, 0),
        extract32(signature, 32),
    )


@internal
@view
def _recover(struct_hash: bytes32, v: uint256, r: bytes32, s: bytes32) -> address:
    assert v == 27 or v == 28, "signature: v is 27 or 28"
    assert convert(s, uint256) <= convert(HALF_ORDER, uint256), "signature: high s"
    signer: address = ecrecover(self._hash_typed(struct_hash), v, r, s)
    assert signer != empty(address), "signature: fits no key"
    return signer
