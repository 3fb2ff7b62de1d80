"""What a card says is held to the training root, whoever shows it."""

import msgspec
import pytest

from openledger.attribution.card.figures import (
    Audit,
    Calibration,
    Committed,
    Figures,
    Measured,
    Sizes,
    Times,
)
from openledger.core.encoding import encode
from openledger.core.errors import InvalidProofError, OpenLedgerError, VerificationError
from openledger.core.merkle import Tree
from openledger.core.types import Digest

ADAPTERS = (Digest("a" * 64), Digest("b" * 64))
NONE = Figures(None, None, None, None)
MEASURED = Measured(2, 2, 0, 0, 1, 1, NONE, None, None, Sizes(4, 4, 4, 1, 1), Times(1, 1, 1))
AUDIT = Audit(ADAPTERS, Calibration(1_000, 250_000), MEASURED)


class Commitment(msgspec.Struct):
    """As much of one as a card needs."""

    base: Digest
    adapter: Digest
    audit: Audit | msgspec.UnsetType = msgspec.UNSET


def tree_of(audit: Audit | msgspec.UnsetType) -> tuple[bytes, Tree]:
    leaf = encode(Commitment(*ADAPTERS, audit))
    return leaf, Tree([leaf, b'{"method":2}', b"[]", b"x"])


def test_a_card_tells_what_the_root_commits_to() -> None:
    for audit, expected in ((AUDIT, AUDIT), (msgspec.UNSET, None)):
        leaf, tree = tree_of(audit)

        summary = Committed(leaf.decode(), tree.prove(0)).summary(tree.root)

        assert summary.audit == expected
        assert summary.measured == (expected and expected.measured)
        assert summary.is_audited == (expected is not None)


def test_any_altered_byte_of_the_commitment_is_found() -> None:
    leaf, tree = tree_of(AUDIT)

    for place in range(len(leaf)):
        altered = leaf[:place] + bytes([leaf[place] ^ 1]) + leaf[place + 1 :]
        with pytest.raises(InvalidProofError):
            Committed(altered.decode(), tree.prove(0)).summary(tree.root)


def test_no_other_leaf_passes_for_the_commitment() -> None:
    _, tree = tree_of(AUDIT)

    with pytest.raises(VerificationError, match="first leaf"):
        Committed('{"method":2}', tree.prove(1)).summary(tree.root)


@pytest.mark.parametrize(
    "leaf",
    [
        "x",
        "[]",
        "{}",
        '{"method":2}',
        '{"base":"a","adapter":"b","audit":{"adapters":[]}}',
        '{"base":"a","adapter":"b","more":' + 5_000 * "[" + 5_000 * "]" + "}",
    ],
)
def test_a_first_leaf_that_is_no_commitment_is_refused(leaf: str) -> None:
    tree = Tree([leaf.encode()])

    with pytest.raises(VerificationError, match="no commitment"):
        Committed(leaf, tree.prove(0)).summary(tree.root)


def test_a_proof_that_is_none_is_refused() -> None:
    leaf, tree = tree_of(AUDIT)
    proof = msgspec.structs.replace(tree.prove(0), path=(Digest("zz"), Digest("zz")))

    with pytest.raises(InvalidProofError, match="'zz' in the proof is no digest"):
        Committed(leaf.decode(), proof).summary(tree.root)


def test_a_calibration_that_is_none_is_refused() -> None:
    leaf, _ = tree_of(AUDIT)
    wrong = leaf.replace(b'"ridge_ppm":250000', b'"ridge_ppm":0')
    tree = Tree([wrong])

    with pytest.raises(OpenLedgerError):
        Committed(wrong.decode(), tree.prove(0)).summary(tree.root)
