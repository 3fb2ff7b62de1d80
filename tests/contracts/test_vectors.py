"""The contracts held to the vectors that the product's Python makes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boa
import pytest
from boa.contracts.vyper.vyper_contract import VyperContract
from world import deployer_of, person

VECTORS = Path(__file__).parents[1] / "vectors"
PROBE = """
from modules import merkle
from modules import signatures

@external
@pure
def is_proof(
    leaf: Bytes[160], index: uint256, size: uint256, path: DynArray[bytes32, 40], root: bytes32
) -> bool:
    return merkle._is_proof(merkle._leaf_hash(leaf), index, size, path, root)

@external
@view
def signer_of_commit(
    account: address, datanet: uint256, commitment: bytes32, nonce: uint256, deadline: uint256,
    signature: Bytes[65]
) -> address:
    kind: bytes32 = keccak256(
        "Commit(address account,uint256 datanet,bytes32 commitment,uint256 nonce,uint256 deadline)"
    )
    return signatures._signer_of(
        keccak256(abi_encode(kind, account, datanet, commitment, nonce, deadline)), signature
    )

@external
@view
def signer_of_voucher(channel: bytes32, limit: uint128, signature: Bytes[65]) -> address:
    kind: bytes32 = keccak256("Voucher(bytes32 channelId,uint128 maxClaimableAmount)")
    return signatures._signer_of(keccak256(abi_encode(kind, channel, limit)), signature)

@external
@view
def payout_leaf(gateway: address, account: address, cumulative: uint256) -> Bytes[160]:
    return abi_encode(chain.id, self, gateway, account, cumulative)
"""


def load(name: str) -> dict[str, Any]:
    found = json.loads((VECTORS / name).read_text())
    assert isinstance(found, dict)
    return found


def raw(items: list[str]) -> list[bytes]:
    return [bytes.fromhex(item) for item in items]


@pytest.fixture(scope="module")
def signing() -> dict[str, Any]:
    return load("signing.json")


@pytest.fixture
def probe(signing: dict[str, Any]) -> Iterator[VyperContract]:
    """The modules at the address and on the chain of the vectors."""
    with boa.env.anchor():
        boa.env.evm.patch.chain_id = signing["chain_id"]
        yield boa.loads(PROBE, override_address=signing["contract"])


def test_every_proof_of_the_vectors_holds(probe: VyperContract) -> None:
    for tree in load("merkle.json")["trees"]:
        leaves, root = raw(tree["leaves"]), bytes.fromhex(tree["root"])
        for index, path in enumerate(tree["paths"]):
            assert probe.is_proof(leaves[index], index, len(leaves), raw(path), root)


def test_every_false_proof_of_the_vectors_is_refused(probe: VyperContract) -> None:
    for case in load("merkle.json")["refused"]:
        leaf, root = bytes.fromhex(case["leaf"]), bytes.fromhex(case["root"])
        path = raw(case["path"])
        assert not probe.is_proof(leaf, case["index"], case["size"], path, root), case["why"]


def test_an_empty_tree_proves_nothing(probe: VyperContract) -> None:
    assert not probe.is_proof(b"", 0, 0, [], b"\x00" * 32)


def test_relayed_acts_and_vouchers_recover_to_their_signers(
    probe: VyperContract, signing: dict[str, Any]
) -> None:
    functions = {"Voucher": probe.signer_of_voucher, "Commit": probe.signer_of_commit}
    for struct in signing["structs"]:
        if struct["type"] not in functions:
            continue
        values = [
            bytes.fromhex(value) if struct["solidity"][name] == "bytes32" else value
            for name, value in struct["message"].items()
        ]
        signer = functions[struct["type"]](*values, bytes.fromhex(struct["signature"]))
        assert signer.lower() == struct["signer"]


def test_a_payout_leaf_is_that_of_the_vector(probe: VyperContract, signing: dict[str, Any]) -> None:
    gateway, payer = signing["gateway"]["account"], signing["payer"]["account"]
    leaf = probe.payout_leaf(gateway, payer, signing["payout_cumulative"])

    assert leaf.hex() == signing["payout_leaf"]


def test_the_escrow_computes_channels_and_call_digests_of_the_vectors(
    signing: dict[str, Any],
) -> None:
    with boa.env.anchor():
        boa.env.evm.patch.chain_id = signing["chain_id"]
        address = signing["contract"]
        token = deployer_of("OpenToken").deploy(person("holder"), override_address=signing["token"])
        payouts = deployer_of("Payouts").deploy(token, person("x"), address, 0, person("y"))
        escrow = deployer_of("Escrow").deploy(token, payouts, 0, override_address=address)
        channel = list(signing["channel"].values())
        channel[-1] = bytes.fromhex(channel[-1])
        call = next(s for s in signing["structs"] if s["type"] == "CallReceipt")
        receipt = [
            bytes.fromhex(value) if call["solidity"][name] == "bytes32" else value
            for name, value in call["message"].items()
        ]

        assert escrow.channel_id(tuple(channel)).hex() == signing["channel_id"]
        assert escrow.call_digest(tuple(receipt)).hex() == call["digest"]
