"""Merkle trees over ordered leaves, as RFC 6962 (section 2.1) defines them.

A leaf hashes to sha256(0x00 || leaf), a pair to sha256(0x01 || left || right), so no inner node
can pass for a leaf. A root proves little without its size: the two always travel together.
`contracts/modules/merkle.vy` checks the same proofs on chain, from the same vectors.
"""

from collections.abc import Sequence
from hashlib import sha256

import msgspec

from openledger.core.errors import InvalidProofError
from openledger.core.types import Digest

EMPTY_ROOT = Digest(sha256(b"").hexdigest())


class Proof(msgspec.Struct, frozen=True):
    """That one leaf stands at `index` in a tree of `size` leaves."""

    index: int
    size: int
    path: tuple[Digest, ...]  # from the leaf's sibling up to the root's child


class Tree:
    """All levels of one tree, so that many proofs cost one pass over the leaves."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        level = [_leaf(leaf) for leaf in leaves]
        self.size = len(level)
        self._levels = [level]
        while len(level) > 1:
            pairs = [_pair(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
            # RFC 6962 carries an odd last node up unchanged; it is never paired with itself.
            level = pairs + level[len(pairs) * 2 :]
            self._levels.append(level)

    @property
    def root(self) -> Digest:
        """The root; sha256 of nothing when the tree is empty."""
        return Digest(self._levels[-1][0].hex()) if self.size else EMPTY_ROOT

    def prove(self, index: int) -> Proof:
        """Prove the leaf at `index`.

        Raises:
            InvalidProofError: the index is outside the tree.
        """
        _check_index(index, self.size)
        path: list[Digest] = []
        position = index
        for level in self._levels[:-1]:
            sibling = position ^ 1
            if sibling < len(level):
                path.append(Digest(level[sibling].hex()))
            position //= 2
        return Proof(index, self.size, tuple(path))


def root(leaves: Sequence[bytes]) -> Digest:
    """The root of these leaves, in this order."""
    return Tree(leaves).root


def verify(leaf: bytes, proof: Proof, expected_root: Digest) -> None:
    """Check that `leaf` stands where the proof says, under `expected_root`.

    Source: RFC 9162 section 2.1.3.2 (the same tree as RFC 6962).

    Raises:
        InvalidProofError: it does not.
    """
    _check_index(proof.index, proof.size)
    position, last = proof.index, proof.size - 1
    node = _leaf(leaf)
    for step in proof.path:
        if last == 0:
            raise InvalidProofError(f"the proof is longer than a tree of {proof.size} leaves")
        sibling = _sibling(step)
        if position % 2 or position == last:
            node = _pair(sibling, node)
            while position % 2 == 0 and position:
                position, last = position // 2, last // 2
        else:
            node = _pair(node, sibling)
        position, last = position // 2, last // 2
    if last:
        raise InvalidProofError(f"the proof is shorter than a tree of {proof.size} leaves")
    if node.hex() != expected_root:
        raise InvalidProofError(f"the proof leads to {node.hex()}, not to {expected_root}")


def _sibling(step: str) -> bytes:
    try:
        return bytes.fromhex(step)
    except ValueError as error:
        raise InvalidProofError(f"{step[:80]!r} in the proof is no digest") from error


def _check_index(index: int, size: int) -> None:
    if not 0 <= index < size:
        raise InvalidProofError(f"index {index} is outside a tree of {size} leaves")


def _leaf(leaf: bytes) -> bytes:
    return sha256(b"\x00" + leaf).digest()


def _pair(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()
