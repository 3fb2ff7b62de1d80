# pragma version 0.4.3
# pragma evm-version cancun
"""
@title Merkle trees over ordered leaves, as RFC 6962 (section 2.1) defines them
@notice A leaf hashes to sha256(0x00 || leaf), a pair to sha256(0x01 || left || right).
        `openledger.core.merkle` makes the proofs; `tests/vectors/merkle.json` holds both to it.
        Checking follows RFC 9162 section 2.1.3.2: a proof binds leaf, index, size and root.
"""

MAX_PATH: constant(uint256) = 40  # levels: trees of up to 2**40 leaves


@internal
@pure
def _leaf_hash(leaf: Bytes[160]) -> bytes32:
    return sha256(concat(x"00", leaf))


@internal
@pure
def _pair_hash(left: bytes32, right: bytes32) -> bytes32:
    return sha256(concat(x"01", left, right))


@internal
@pure
def _is_proof(
    leaf_hash: bytes32,
    index: uint256,
    size: uint256,
    path: DynArray[bytes32, MAX_PATH],
    root: bytes32,
) -> bool:
    if index >= size:
        return False
    node: bytes32 = leaf_hash
    position: uint256 = index
    last: uint256 = size - 1
    for sibling: bytes32 in path:
        if last == 0:  # longer than the tree is high
            return False
        if position == last:
            # The right border: a node without a sibling is carried up, so all levels at which
            # the position is even are skipped at once. Dividing by the lowest set bit does it.
            position = position // (position & (max_value(uint256) - position + 1))
            last = position
            node = self._pair_hash(sibling, node)
        elif position & 1 == 1:
            node = self._pair_hash(sibling, node)
        else:
            node = self._pair_hash(node, sibling)
        position = position >> 1
        last = last >> 1
    return last == 0 and node == root
