"""The receipt's format, held by a vector that another implementation can be tested with."""

import json
from pathlib import Path

import pytest

from openledger.core.encoding import decode, digest_of
from openledger.core.errors import VerificationError
from openledger.core.signing import Domain, digest_typed
from openledger.flows.money.verify.anchors import Anchors
from openledger.flows.money.verify.bundle import Bundle
from openledger.flows.money.verify.public import verify_bundle
from openledger.settlement.receipt import CallBody, StatementBody, leaf
from tests.vectors import make

VECTOR = json.loads((Path(__file__).parents[1] / "vectors" / "receipt.json").read_text())
BUNDLE = VECTOR["bundle"].encode()
ANCHORS = Anchors(
    chain_id=VECTOR["domain"]["chain_id"],
    escrow=VECTOR["domain"]["contract"],
    gateway=VECTOR["gateway"]["account"],
    epoch_root=VECTOR["epoch"]["root"],
    epoch_first=VECTOR["epoch"]["first"],
    epoch_size=VECTOR["epoch"]["size"],
)


def test_the_vector_is_a_receipt_that_holds() -> None:
    report = verify_bundle(BUNDLE, ANCHORS)

    assert report.is_anchored
    assert len(report.checks) == 6


def test_bodies_structs_and_leaf_have_the_digests_of_the_vector() -> None:
    domain = Domain(ANCHORS.chain_id, ANCHORS.escrow)
    pair = decode(BUNDLE, Bundle).receipt
    call_body = decode(VECTOR["call_body"].encode(), CallBody)
    statement_body = decode(VECTOR["statement_body"].encode(), StatementBody)

    assert pair.call.body == call_body
    assert pair.statement.body == statement_body
    assert digest_of(call_body) == VECTOR["call_body_digest"]
    assert digest_of(statement_body) == VECTOR["statement_body_digest"]
    assert digest_typed(domain, pair.call.call) == VECTOR["call_digest"]
    assert digest_typed(domain, pair.statement.statement) == VECTOR["statement_digest"]
    assert leaf(domain, pair).hex() == VECTOR["leaf"]


def test_no_byte_of_the_vector_may_change() -> None:
    for place in range(0, len(BUNDLE), 11):  # a stride that meets every field
        altered = BUNDLE[:place] + bytes([BUNDLE[place] ^ 1]) + BUNDLE[place + 1 :]
        with pytest.raises(VerificationError):
            verify_bundle(altered, ANCHORS)


def test_the_vectors_are_what_the_code_makes() -> None:
    folder = Path(make.__file__).parent

    assert {name: (folder / name).read_text() for name in make.texts()} == make.texts()
