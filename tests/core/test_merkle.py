"""RFC 6962 trees: roots, proofs, refusals."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openledger.core import merkle
from openledger.core.errors import InvalidProofError
from openledger.core.types import Digest

leaf_lists = st.lists(st.binary(max_size=8), min_size=1, max_size=40)


def naive_root(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, word for word: split at the largest power of two below n."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return sha256(b"\x01" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


@given(st.lists(st.binary(max_size=8), max_size=40))
def test_the_root_is_that_of_the_rfc(leaves: list[bytes]) -> None:
    assert merkle.root(leaves) == naive_root(leaves).hex()


@given(leaf_lists, st.data())
def test_every_leaf_can_be_proved(leaves: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    tree = merkle.Tree(leaves)

    merkle.verify(leaves[index], tree.prove(index), tree.root)


@given(leaf_lists, st.data())
def test_a_proof_binds_position_and_size(leaves: list[bytes], data: st.DataObject) -> None:
    tree = merkle.Tree([i.to_bytes(2, "big") + leaf for i, leaf in enumerate(leaves)])
    index = data.draw(st.integers(0, tree.size - 1))
    other = data.draw(st.integers(0, tree.size + 3).filter(lambda i: i != index))
    proof = tree.prove(index)

    with pytest.raises(InvalidProofError):
        merkle.verify(
            index.to_bytes(2, "big") + leaves[index],
            merkle.Proof(other, proof.size, proof.path),
            tree.root,
        )


def test_a_proof_under_another_root_is_refused() -> None:
    tree = merkle.Tree([b"a", b"b", b"c"])

    with pytest.raises(InvalidProofError, match="leads to"):
        merkle.verify(b"a", tree.prove(0), Digest("0" * 64))


def test_a_proof_too_long_or_too_short_is_refused() -> None:
    tree = merkle.Tree([b"a", b"b", b"c"])
    proof = tree.prove(0)

    with pytest.raises(InvalidProofError, match="longer"):
        merkle.verify(b"a", merkle.Proof(0, 3, (*proof.path, *proof.path)), tree.root)
    with pytest.raises(InvalidProofError, match="shorter"):
        merkle.verify(b"a", merkle.Proof(0, 3, proof.path[:1]), tree.root)


def test_the_empty_tree_proves_nothing() -> None:
    tree = merkle.Tree([])

    assert tree.root == merkle.EMPTY_ROOT
    with pytest.raises(InvalidProofError, match="outside"):
        tree.prove(0)
