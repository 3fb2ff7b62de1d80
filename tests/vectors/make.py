"""Make merkle.json, signing.json and receipt.json from the product's own Python.

`python -m tests.vectors.make` writes them; `tests/core/test_merkle_vectors.py` holds Python to
them, `tests/settlement/test_receipt_vectors.py` to the receipt, and
`tests/contracts/test_vectors.py` the contracts. A change here is a change of format.
"""

import json
from pathlib import Path
from typing import Any

from eth_utils.crypto import keccak

from openledger.core.encoding import encode
from openledger.core.merkle import Proof, Tree
from openledger.core.signing import (
    Domain,
    TypedRecord,
    address_of,
    digest_typed,
    sign_typed,
)
from openledger.core.types import Account, Digest, Wei
from openledger.flows.money.verify.bundle import Bundle, EpochProof, Opening, pack
from openledger.settlement.epoch import Payout, payout_leaf, receipt_tree
from openledger.settlement.receipt import (
    AttributionStatement,
    CallReceipt,
    EpochRoot,
    leaf,
    payer_commitment,
)
from openledger.settlement.voucher import Channel, Voucher, channel_id
from tests.settlement import ledger

HERE = Path(__file__).parent
SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 16, 21, 33)

CHAIN_ID = 901
CONTRACT = Account("0x" + "c0" * 20)
TOKEN = Account("0x" + "70" * 20)
PAYER_KEY = keccak(text="payer of the vectors")
GATEWAY_KEY = keccak(text="gateway of the vectors")


class Commit(TypedRecord, frozen=True):
    """A relayed act, as `Datanets` reads it."""

    solidity = {  # noqa: RUF012 - ClassVar
        "account": "address",
        "datanet": "uint256",
        "commitment": "bytes32",
        "nonce": "uint256",
        "deadline": "uint256",
    }

    account: Account
    datanet: int
    commitment: Digest
    nonce: int
    deadline: int


def merkle() -> dict[str, Any]:
    """Trees with the proof of every leaf, and proofs that are none."""
    trees = []
    for size in SIZES:
        leaves = [f"leaf {index} of {size}".encode() for index in range(size)]
        tree = Tree(leaves)
        trees.append(
            {
                "leaves": [leaf.hex() for leaf in leaves],
                "root": tree.root,
                "paths": [list(tree.prove(index).path) for index in range(size)],
            }
        )
    return {"trees": trees, "refused": _refused()}


def signing() -> dict[str, Any]:
    """Structs under one domain, with digests and signatures."""
    domain = Domain(CHAIN_ID, CONTRACT)
    payer, gateway = address_of(PAYER_KEY), address_of(GATEWAY_KEY)
    channel = Channel(
        payer=payer,
        gateway=gateway,
        expiry=2_000_000_000,
        price_ceiling=Wei(10**15),
        daily_cap=Wei(10**18),
        min_data_bps=5000,
        salt=_digest("channel salt"),
    )
    voucher = Voucher(channel_id(domain, TOKEN, channel), Wei(5 * 10**17))
    salt = bytes.fromhex(_digest("payer salt"))
    call = CallReceipt(
        version=1,
        chain_id=CHAIN_ID,
        escrow=CONTRACT,
        gateway=gateway,
        gateway_sequence=7,
        payer_sequence=3,
        payer_total=Wei(3 * 10**17),
        gateway_total=Wei(7 * 10**17),
        previous=_digest("previous"),
        fee=Wei(10**17),
        terms_version=2,
        payer_commitment=payer_commitment(payer, salt),
        body=_digest("body"),
    )
    statement = AttributionStatement(1, digest_typed(domain, call), _digest("statement body"))
    commit = Commit(payer, 3, _digest("commitment"), 4, 2_000_000_000)
    payout = Payout(payer, Wei(123_456_789))
    return {
        "chain_id": CHAIN_ID,
        "contract": CONTRACT,
        "token": TOKEN,
        "payer": {"key": PAYER_KEY.hex(), "account": payer},
        "gateway": {"key": GATEWAY_KEY.hex(), "account": gateway},
        "payer_salt": salt.hex(),
        "channel": _fields(channel),
        "channel_id": voucher.channel_id,
        "payout_leaf": payout_leaf(CHAIN_ID, CONTRACT, gateway, payout).hex(),
        "payout_cumulative": payout.cumulative,
        "structs": [
            _signed(domain, voucher, PAYER_KEY),
            _signed(domain, call, GATEWAY_KEY),
            _signed(domain, statement, GATEWAY_KEY),
            _signed(domain, commit, PAYER_KEY),
        ],
    }


def receipt() -> dict[str, Any]:
    """The third receipt of a gateway, in full, with its place in an epoch of five."""
    run = ledger.run(5)
    chosen, previous = run[2], run[1].call.call
    tree = receipt_tree(ledger.DOMAIN, run)
    private = ledger.private(3)
    opened = Opening("answer", Digest(private.salt("answer").hex()), private.answer)
    stated = EpochRoot(1, tree.size, tree.root)
    signature = sign_typed(ledger.DOMAIN, stated, ledger.GATEWAY_KEY)
    epoch = EpochProof(1, tree.root, tree.prove(2), signature)
    call, statement = chosen.call, chosen.statement
    return {
        "domain": {"chain_id": ledger.DOMAIN.chain_id, "contract": ledger.DOMAIN.contract},
        "gateway": {"key": ledger.GATEWAY_KEY.hex(), "account": ledger.GATEWAY},
        "call_body": encode(call.body).decode(),
        "call_body_digest": call.call.body,
        "call_digest": digest_typed(ledger.DOMAIN, call.call),
        "statement_body": encode(statement.body).decode(),
        "statement_body_digest": statement.statement.body,
        "statement_digest": digest_typed(ledger.DOMAIN, statement.statement),
        "leaf": leaf(ledger.DOMAIN, chosen).hex(),
        "epoch": {"first": 1, "size": tree.size, "root": tree.root},
        "bundle": pack(Bundle(1, chosen, previous, epoch, (opened,))).decode(),
    }


def _refused() -> list[dict[str, Any]]:
    cases = []
    for size, index in ((1, 0), (2, 1), (5, 4), (7, 2), (9, 8), (21, 20)):
        leaves = [f"leaf {i} of {size}".encode() for i in range(size)]
        tree = Tree(leaves)
        proof = tree.prove(index)
        extra = _digest("extra")
        wrong = {
            "too long": Proof(index, size, (*proof.path, extra)),
            "index outside": Proof(size, size, proof.path),
            "larger tree": Proof(index, 2 * size + 1, proof.path),
        }
        if proof.path:
            wrong["too short"] = Proof(index, size, proof.path[:-1])
            wrong["altered"] = Proof(index, size, (extra, *proof.path[1:]))
            wrong["another index"] = Proof((index + 1) % size, size, proof.path)
        cases += [
            {
                "why": why,
                "leaf": leaves[index].hex(),
                "index": bad.index,
                "size": bad.size,
                "path": list(bad.path),
                "root": tree.root,
            }
            for why, bad in wrong.items()
        ]
    return cases


def _signed(domain: Domain, record: TypedRecord, key: bytes) -> dict[str, Any]:
    return {
        "type": type(record).__name__,
        "solidity": dict(record.solidity),
        "message": record.message(),
        "signer": address_of(key),
        "digest": digest_typed(domain, record),
        "signature": sign_typed(domain, record, key),
    }


def _fields(channel: Channel) -> dict[str, Any]:
    return {name: getattr(channel, name) for name in channel.__struct_fields__}


def _digest(text: str) -> Digest:
    return Digest(keccak(text=text).hex())


def texts() -> dict[str, str]:
    """File name to content."""
    made = {"merkle.json": merkle(), "signing.json": signing(), "receipt.json": receipt()}
    return {name: json.dumps(value, indent=1) + "\n" for name, value in made.items()}


if __name__ == "__main__":
    for name, text in texts().items():
        (HERE / name).write_text(text)
