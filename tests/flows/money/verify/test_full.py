"""Scores redone from vector and rows: to the bit, and nothing of a bundle may be altered."""

import random
from base64 import b64encode

import msgspec
import numpy as np
import pytest

from openledger.core.encoding import decode, encode
from openledger.core.errors import InvalidInputError, VerificationError
from openledger.core.types import Account
from openledger.flows.money.verify.bundle import (
    Anchors,
    FullBundle,
    OpenedRow,
    OpenedScores,
    read_bundle,
)
from openledger.flows.money.verify.export import open_export
from openledger.flows.money.verify.full import draw, verify_full
from openledger.flows.money.verify.public import verify_bundle
from openledger.flows.money.verify.recompute import exported_state
from tests.audited import Files
from tests.flows.money.verify.alterations import altered_fields

pytestmark = pytest.mark.slow

FEW = 40


def full(raw: bytes) -> FullBundle:
    read = read_bundle(raw)
    assert isinstance(read, FullBundle)
    return read


def check(raw: bytes, anchors: Anchors | None) -> tuple[str, ...]:
    verify_bundle(raw, anchors)
    return verify_full(read_bundle(raw), anchors, {})


def with_opened(bundle: FullBundle, opened: OpenedScores) -> FullBundle:
    return msgspec.structs.replace(bundle, opened=(opened,))


def with_rows(bundle: FullBundle, rows: tuple[OpenedRow, ...]) -> FullBundle:
    (opened,) = bundle.opened
    return with_opened(bundle, msgspec.structs.replace(opened, rows=rows))


def test_all_scores_follow_from_the_rows_of_the_bundle(audited: Files) -> None:
    clusters = full(audited.full).receipt.statement.body.members[0].clusters

    assert any(cluster.documents for cluster in clusters)
    for anchors in (audited.anchors, None):
        (line,) = check(audited.full, anchors)
        assert line.startswith(f"the scores of {len(clusters)} of {len(clusters)} clusters")


def test_a_drawn_bundle_proves_the_clusters_that_the_checkers_word_draws(audited: Files) -> None:
    (line,) = check(audited.drawn, audited.anchors)
    count = len(full(audited.drawn).receipt.statement.body.members[0].clusters)

    assert line.startswith(f"the scores of 2 of {count} clusters")
    assert draw("mine", 2, count) == draw("mine", 2, count)
    assert len({tuple(draw(str(word), 2, count)) for word in range(20)}) > 5
    assert draw("", count + 5, count) == list(range(count))


def test_the_state_of_an_export_redoes_all_scores(audited: Files) -> None:
    bundle = full(audited.drawn)
    export = open_export(audited.export, bundle.receipt, audited.anchors)
    state = exported_state(bundle, export)
    number = export.body.release.number
    count = len(bundle.receipt.statement.body.members[0].clusters)

    (line,) = verify_full(bundle, audited.anchors, {number: state})
    (bare,) = verify_full(with_rows(bundle, ()), audited.anchors, {number: state})

    assert line == bare
    assert line.startswith(f"the scores of {count} of {count} clusters")


def test_a_free_call_was_owed_nothing(audited: Files) -> None:
    (line,) = check(audited.free, None)

    assert "owed nothing" in line


def test_a_public_bundle_opens_nothing(audited: Files) -> None:
    with pytest.raises(VerificationError, match="receipt show --rows"):
        check(audited.public, None)


def unnoticed(raw: bytes, anchors: Anchors | None) -> bool:
    try:
        check(raw, anchors)
    except VerificationError:
        return False
    return True


def test_bytes_all_over_a_full_bundle_may_not_differ(audited: Files) -> None:
    draw_bit = random.Random(3)
    found = []
    for place in range(5, len(audited.drawn), len(audited.drawn) // FEW):
        altered = bytearray(audited.drawn)
        altered[place] ^= 1 << draw_bit.randrange(8)
        if unnoticed(bytes(altered), audited.anchors):
            found.append(place)

    assert found == []


@pytest.mark.timeout(900)
def test_no_field_of_a_full_bundle_may_differ(audited: Files) -> None:
    """All fields of what it opens; those of the receipt itself have tests of their own."""
    tried, found = 0, []
    for path, raw in altered_fields(audited.drawn):
        if not path.startswith("opened"):
            continue
        tried += 1
        if unnoticed(raw, audited.anchors):
            found.append(path)

    assert tried > 100
    assert found == []


def test_rows_left_out_are_missed(audited: Files) -> None:
    """Placebo rows make the floors, documents say who is paid; each is needed."""
    bundle = full(audited.full)
    (opened,) = bundle.opened
    paid = {
        document.document
        for cluster in bundle.receipt.statement.body.members[0].clusters
        for document in cluster.documents
    }
    needed = [
        place
        for place, row in enumerate(opened.rows)
        if "placebo" in row.leaf or any(f'"document":{one},' in row.leaf for one in paid)
    ]

    assert len(needed) > 16
    for place in needed:
        rows = opened.rows[:place] + opened.rows[place + 1 :]
        with pytest.raises(VerificationError):
            check(encode(with_rows(bundle, rows)), audited.anchors)
    with pytest.raises(VerificationError, match="opened twice"):
        check(encode(with_rows(bundle, (*opened.rows, opened.rows[0]))), audited.anchors)


def test_another_vector_than_the_signed_one_is_refused(audited: Files) -> None:
    bundle = full(audited.full)
    (opened,) = bundle.opened
    other = b64encode(np.zeros(16, "<i2").tobytes()).decode()

    for query in (other, "*", ""):
        changed = with_opened(bundle, msgspec.structs.replace(opened, query=query))
        with pytest.raises(VerificationError, match="query vector"):
            check(encode(changed), None)


def test_scores_that_the_rows_do_not_give_are_refused(audited: Files) -> None:
    """As of a gateway that signs scores of its own making: level 1 public alone would hold."""
    bundle = full(audited.full)
    (member,) = bundle.receipt.statement.body.members
    paid = next(cluster for cluster in member.clusters if cluster.documents)
    replace = msgspec.structs.replace

    def claiming(**changes: object) -> FullBundle:
        clusters = tuple(replace(c, **changes) if c is paid else c for c in member.clusters)
        body = replace(bundle.receipt.statement.body, members=(replace(member, clusters=clusters),))
        statement = replace(bundle.receipt.statement, body=body)
        return replace(bundle, receipt=replace(bundle.receipt, statement=statement))

    other = replace(paid.documents[0], account=Account("0x" + "9" * 40))
    lies: dict[str, dict[str, object]] = {
        "the score of cluster": {"score": paid.score + 1},
        "cluster": {"floor": 0},
        "another account": {"documents": (other, *paid.documents[1:])},
        "is paid, but not opened": {"documents": (replace(paid.documents[0], document=999),)},
        "the score of document": {
            "documents": (replace(paid.documents[0], score=paid.documents[0].score + 1),)
        },
    }
    for said, lie in lies.items():
        with pytest.raises(VerificationError, match=said):
            verify_full(claiming(**lie), None, {})
    unscored = replace(member, clusters=())
    body = replace(bundle.receipt.statement.body, members=(unscored,))
    receipt = replace(bundle.receipt, statement=replace(bundle.receipt.statement, body=body))
    with pytest.raises(VerificationError, match="was owed, but was not scored"):
        verify_full(replace(bundle, receipt=receipt), None, {})


def test_the_chain_says_how_large_the_tree_is(audited: Files) -> None:
    (release, *_) = (r for r in audited.anchors.releases if r.training_size != 12)
    smaller = msgspec.structs.replace(release, training_size=release.training_size - 1)
    anchors = msgspec.structs.replace(audited.anchors, releases=(smaller,))

    with pytest.raises(VerificationError, match="different sizes"):
        check(audited.full, anchors)


def test_a_method_whose_scores_are_made_otherwise_is_refused(audited: Files) -> None:
    bundle = full(audited.full)
    body = msgspec.structs.replace(bundle.receipt.statement.body, method=99)
    statement = msgspec.structs.replace(bundle.receipt.statement, body=body)
    receipt = msgspec.structs.replace(bundle.receipt, statement=statement)

    with pytest.raises(InvalidInputError, match="method 99"):
        verify_full(msgspec.structs.replace(bundle, receipt=receipt), None, {})


def test_leaves_that_are_no_entries_are_refused(audited: Files) -> None:
    bundle = full(audited.full)
    (opened,) = bundle.opened
    for leaf in ("", "[]", "7", '{"cluster":1}', opened.rows[0].leaf + " "):
        rows = (msgspec.structs.replace(opened.rows[0], leaf=leaf), *opened.rows[1:])
        with pytest.raises(VerificationError):
            check(encode(with_rows(bundle, rows)), None)
    assert decode(audited.full, FullBundle) == bundle
