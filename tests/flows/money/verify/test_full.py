"""Scores redone from vector and rows: to the bit, and nothing of a bundle may be altered."""

import random
from base64 import b64encode
from hashlib import sha256

import msgspec
import numpy as np
import pytest

from openledger.attribution.method import CAP_PPB
from openledger.attribution.release import build
from openledger.attribution.scoring import Scoring
from openledger.attribution.state import AttributionState, digest_of_row, row_text
from openledger.core.encoding import decode, encode
from openledger.core.errors import InvalidInputError, VerificationError
from openledger.core.types import Account, Digest
from openledger.flows.money.verify.anchors import Anchors
from openledger.flows.money.verify.bundle import (
    FULL_BUNDLE_VERSION,
    FullBundle,
    OpenedRow,
    OpenedScores,
    read_bundle,
)
from openledger.flows.money.verify.export import open_export
from openledger.flows.money.verify.full import draw, open_scores, verify_full
from openledger.flows.money.verify.public import verify_bundle
from openledger.flows.money.verify.recompute import exported_state
from openledger.lm.base import load_base
from openledger.settlement.price import MixMember
from openledger.settlement.receipt import Receipt, make_statement
from openledger.settlement.shares import ClusterScore, Gain, MemberScores, Segment, Unscored
from tests.attribution.releases import ADAPTER, RECIPE, alone, examples_of, some_model, some_text
from tests.audited import Files
from tests.flows.money.verify.alterations import altered_fields
from tests.settlement import ledger

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
    clusters = full(audited.full).receipt.statement.body.members[0].segments[0].clusters

    assert any(cluster.documents for cluster in clusters)
    for anchors in (audited.anchors, None):
        (line,) = check(audited.full, anchors)
        assert line.startswith(f"the scores of {len(clusters)} of {len(clusters)} clusters")


def test_a_drawn_bundle_proves_the_clusters_that_the_checkers_word_draws(audited: Files) -> None:
    (line,) = check(audited.drawn, audited.anchors)
    count = len(full(audited.drawn).receipt.statement.body.members[0].segments[0].clusters)

    assert line.startswith(f"the scores of 2 of {count} clusters")
    assert draw("mine", 2, count) == draw("mine", 2, count)
    assert len({tuple(draw(str(word), 2, count)) for word in range(20)}) > 5
    assert draw("", count + 5, count) == list(range(count))


def test_the_state_of_an_export_redoes_all_scores(audited: Files) -> None:
    bundle = full(audited.drawn)
    export = open_export(audited.export, bundle.receipt, audited.anchors)
    state = exported_state(bundle, export)
    number = export.body.release.number
    count = len(bundle.receipt.statement.body.members[0].segments[0].clusters)

    (line,) = verify_full(bundle, audited.anchors, {number: state})
    (bare,) = verify_full(with_rows(bundle, ()), audited.anchors, {number: state})

    assert line == bare
    assert line.startswith(f"the scores of {count} of {count} clusters")


def test_a_free_call_was_owed_nothing(audited: Files) -> None:
    (line,) = check(audited.free, None)

    assert "was not scored: free" in line


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
        for cluster in bundle.receipt.statement.body.members[0].segments[0].clusters
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
        changed = with_opened(bundle, msgspec.structs.replace(opened, queries=(query,)))
        with pytest.raises(VerificationError, match="query vector"):
            check(encode(changed), None)


def test_scores_that_the_rows_do_not_give_are_refused(audited: Files) -> None:
    """As of a gateway that signs scores of its own making: level 1 public alone would hold."""
    bundle = full(audited.full)
    (member,) = bundle.receipt.statement.body.members
    (segment,) = member.segments
    paid = next(cluster for cluster in segment.clusters if cluster.documents)
    replace = msgspec.structs.replace

    def saying(clusters: tuple[ClusterScore, ...]) -> FullBundle:
        changed = replace(member, segments=(replace(segment, clusters=clusters),))
        body = replace(bundle.receipt.statement.body, members=(changed,))
        statement = replace(bundle.receipt.statement, body=body)
        return replace(bundle, receipt=replace(bundle.receipt, statement=statement))

    def claiming(**changes: object) -> FullBundle:
        return saying(tuple(replace(c, **changes) if c is paid else c for c in segment.clusters))

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
    with pytest.raises(VerificationError, match="was owed, but was not scored"):
        verify_full(saying(()), None, {})


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


def scored(state: AttributionState, tokens: int, seed: int) -> tuple[Segment, str]:
    """A segment by some query vector, as an honest gateway scores it."""
    width = state.manifest.commitment.layout.width
    query = np.random.default_rng(seed).integers(-9_000, 9_000, width).astype(np.int16)
    gain = Gain(8_000_000, 10_000_000, CAP_PPB, 3)
    clusters = Scoring(state).score(query)
    return Segment(tokens, gain, digest_of_row(query), clusters), row_text(query)


@pytest.fixture(scope="module")
def two(
    audited: Files, tmp_path_factory: pytest.TempPathFactory
) -> tuple[FullBundle, dict[int, AttributionState]]:
    """An answer of two releases, in four segments each, of which one owes nothing; and states."""
    base, folder = load_base(audited.base), tmp_path_factory.mktemp("two")
    texts = [some_text(i) for i in range(5)]
    texts.append(texts[-1] + " A")
    mix, members, opened, states = [], [], [], {}
    for number in (3, 8):
        examples = examples_of(base, texts, [0, 1, number, number, 0, 1])
        state = build(folder / str(number), alone(some_model(base, number)), examples, RECIPE)
        found = [scored(state, 100, 10 * number + place) for place in range(3)]
        nothing = Segment(90, Gain(-1, 5, CAP_PPB, 0), Digest(sha256(b"").hexdigest()), ())
        segments = (found[0][0], nothing, *(one for one, _ in found[1:]))
        queries = (found[0][1], "", *(text for _, text in found[1:]))
        member = MemberScores(number, 5 * 10**8, 7, None, segments)
        mix.append(MixMember(number, f"bob/{number}@1", ADAPTER, state.training_root, 5 * 10**8))
        members.append(member)
        opened.append(open_scores(state, member, queries, [0, len(found[0][0].clusters) - 1]))
        states[number] = state
    call = ledger.call(None, output_tokens=390, mix=tuple(mix))
    roles = msgspec.structs.replace(ledger.ROLES, builders=(ledger.BOB, ledger.ALICE))
    statement = make_statement(
        ledger.DOMAIN, call, "float32", tuple(members), roles, ledger.GATEWAY_KEY
    )
    bundle = FullBundle(FULL_BUNDLE_VERSION, Receipt(call, statement), None, None)
    return msgspec.structs.replace(bundle, opened=tuple(opened)), states


def test_all_segments_of_all_members_follow_from_vectors_and_rows(
    two: tuple[FullBundle, dict[int, AttributionState]],
) -> None:
    bundle, states = two

    drawn = verify_full(bundle, None, {})
    whole = verify_full(bundle, None, states)

    assert [line.split()[3:6] for line in drawn] == [["2", "of", "5"]] * 2
    assert [line.split()[3:6] for line in whole] == [["5", "of", "5"]] * 2


def test_no_segment_of_any_member_may_be_scored_otherwise(
    two: tuple[FullBundle, dict[int, AttributionState]],
) -> None:
    bundle, states = two
    replace = msgspec.structs.replace
    statement = bundle.receipt.statement
    members = statement.body.members
    tried = 0
    for place, member in enumerate(members):
        for turn, segment in enumerate(member.segments):
            if not segment.clusters:
                continue
            tried += 1
            first = replace(segment.clusters[0], score=segment.clusters[0].score + 1)
            for changed in (
                replace(segment, clusters=(first, *segment.clusters[1:])),
                replace(segment, clusters=segment.clusters[:-1]),
                replace(segment, clusters=()),
                replace(segment, query=member.segments[turn - 2].query),
            ):
                cut = (*member.segments[:turn], changed, *member.segments[turn + 1 :])
                lying = replace(member, segments=cut)
                body = replace(
                    statement.body, members=(*members[:place], lying, *members[place + 1 :])
                )
                receipt = replace(bundle.receipt, statement=replace(statement, body=body))
                for known in ({}, states):
                    with pytest.raises(VerificationError):
                        verify_full(replace(bundle, receipt=receipt), None, known)

    assert tried == 6


def test_vectors_are_opened_one_a_segment(
    two: tuple[FullBundle, dict[int, AttributionState]],
) -> None:
    bundle, _ = two
    first, second = bundle.opened
    for queries in (first.queries[:-1], (*first.queries, ""), (first.queries[0],) * 4):
        other = msgspec.structs.replace(first, queries=queries)
        with pytest.raises(VerificationError, match="query vector"):
            verify_full(msgspec.structs.replace(bundle, opened=(other, second)), None, {})


def test_what_has_no_scores_has_no_rows(
    two: tuple[FullBundle, dict[int, AttributionState]],
) -> None:
    bundle, _ = two
    replace = msgspec.structs.replace
    first, second = bundle.receipt.statement.body.members
    free = replace(first, unscored=Unscored.NOT_FINITE, segments=())
    body = replace(bundle.receipt.statement.body, members=(free, second))
    receipt = replace(bundle.receipt, statement=replace(bundle.receipt.statement, body=body))
    bare = replace(bundle.opened[0], queries=(), rows=())

    lines = verify_full(replace(bundle, receipt=receipt, opened=(bare, bundle.opened[1])), None, {})

    assert lines[0].endswith("was not scored: not_finite")
    with pytest.raises(VerificationError, match="but has rows"):
        verify_full(
            replace(
                bundle,
                receipt=receipt,
                opened=(replace(bundle.opened[0], queries=()), bundle.opened[1]),
            ),
            None,
            {},
        )
