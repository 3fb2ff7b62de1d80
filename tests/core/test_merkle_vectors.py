"""The vectors that `contracts/modules/{merkle,signatures}.vy` are held to as well."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from eth_abi.abi import encode

from openledger.core.errors import InvalidProofError
from openledger.core.merkle import Proof, Tree, verify
from openledger.core.signing import (
    Domain,
    TypedRecord,
    digest_typed,
    sign_typed,
    verify_typed,
)
from openledger.core.types import Account, Digest

VECTORS = Path(__file__).parents[1] / "vectors"


def load(name: str) -> dict[str, Any]:
    found = json.loads((VECTORS / name).read_text())
    assert isinstance(found, dict)
    return found


def test_every_tree_has_the_root_and_the_proofs_of_its_vector() -> None:
    for vector in load("merkle.json")["trees"]:
        leaves = [bytes.fromhex(leaf) for leaf in vector["leaves"]]
        tree = Tree(leaves)
        assert tree.root == vector["root"]
        for index, path in enumerate(vector["paths"]):
            assert tree.prove(index) == Proof(index, len(leaves), tuple(path))
            verify(leaves[index], tree.prove(index), Digest(vector["root"]))


def test_every_false_proof_is_refused() -> None:
    for case in load("merkle.json")["refused"]:
        proof = Proof(case["index"], case["size"], tuple(case["path"]))
        with pytest.raises(InvalidProofError):
            verify(bytes.fromhex(case["leaf"]), proof, Digest(case["root"]))


def test_every_struct_has_the_digest_and_signature_of_its_vector() -> None:
    vectors = load("signing.json")
    domain = Domain(vectors["chain_id"], Account(vectors["contract"]))
    keys = {vectors[who]["account"]: bytes.fromhex(vectors[who]["key"]) for who in WHO}
    for vector in vectors["structs"]:
        record = record_of(vector)
        assert digest_typed(domain, record) == vector["digest"]
        assert sign_typed(domain, record, keys[vector["signer"]]) == vector["signature"]
        verify_typed(domain, record, vector["signature"], Account(vector["signer"]))


def test_a_payout_leaf_is_its_five_words() -> None:
    vectors = load("signing.json")
    words = encode(
        ["uint256", "address", "address", "address", "uint256"],
        [
            vectors["chain_id"],
            vectors["contract"],
            vectors["gateway"]["account"],
            vectors["payer"]["account"],
            vectors["payout_cumulative"],
        ],
    )
    assert words.hex() == vectors["payout_leaf"]


WHO = ("payer", "gateway")


def record_of(vector: dict[str, Any]) -> TypedRecord:
    """A record of the vector's own type, made from nothing but the vector."""
    kind = msgspec.defstruct(
        vector["type"],
        [(name, object) for name in vector["solidity"]],
        bases=(TypedRecord,),
        namespace={"solidity": vector["solidity"]},
        frozen=True,
    )
    record = kind(*vector["message"].values())
    assert isinstance(record, TypedRecord)
    return record
