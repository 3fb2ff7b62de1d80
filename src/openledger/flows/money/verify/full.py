"""Level 1, full: the integer scores once more, bit by bit, from query vector and rows.

Every row is proved under the training root that the receipt names. With the release's whole state
all scores are redone; from a bundle alone those of the clusters whose rows it opens. That the
vector is the answer's own is level 2.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from hashlib import sha256

import msgspec
import numpy as np

from openledger.attribution.card.figures import Audit
from openledger.attribution.card.panel import correction_of
from openledger.attribution.scoring import Scoring
from openledger.attribution.state import (
    AttributionState,
    row_text,
)
from openledger.core.encoding import encode
from openledger.core.errors import InvalidInputError, VerificationError
from openledger.core.merkle import Tree
from openledger.flows.money.verify.anchors import Anchors
from openledger.flows.money.verify.bundle import (
    Bundle,
    FullBundle,
    OpenedRow,
    OpenedScores,
)
from openledger.flows.money.verify.rows import (
    OpenedRows,
    Root,
    integers,
    parents_of,
    parents_paid,
)
from openledger.settlement.parts import Parent
from openledger.settlement.shares import (
    ClusterScore,
    MemberScores,
    Segment,
    data_share_ppb,
    is_paid,
)

LEVEL = "L1 full"
ROW_METHODS = (2,)  # versions in which a score is the product of the query vector with one row

_ROUNDING = 10**9  # of the largest score: what the order of a sum may change of a correction

_OTHERS = "release {} was merged from others' work than is paid"
_QUERY = np.dtype("<i2")


def verify_full(
    bundle: Bundle, anchors: Anchors | None, states: Mapping[int, AttributionState]
) -> tuple[str, ...]:
    """Redo the scores of a bundle that holds to level 1, public.

    Args:
        bundle: of version 2.
        anchors: what the chain says, the sizes of training roots among it.
        states: of releases, by their numbers; all scores of theirs are redone.

    Returns:
        What was checked, in words.

    Raises:
        VerificationError: the bundle opens no vectors, or a score is not what they give.
        InvalidInputError: this verifier cannot redo the scores of that method.
    """
    if not isinstance(bundle, FullBundle):
        raise VerificationError(
            "this bundle opens no query vector: have one made by `receipt show --rows`"
        )
    body = bundle.receipt.statement.body
    if body.method not in ROW_METHODS:
        raise InvalidInputError(f"the scores of attribution method {body.method} are not redone")
    if [one.release for one in bundle.opened] != [member.release for member in body.members]:
        raise VerificationError("the bundle opens the scores of other releases")
    lines = []
    for member, mixed, opened in zip(
        body.members, bundle.receipt.call.body.mix, bundle.opened, strict=True
    ):
        known = anchors and anchors.release(member.release)
        root = Root(mixed.training_root, known.training_size if known else None)
        paid, state = parents_paid(bundle, member.release), states.get(member.release)
        if state is not None and parents_of(state.manifest.commitment) != paid:
            raise VerificationError(_OTHERS.format(member.release))
        lines.append(_check_member(member, paid, opened, root, state))
    return tuple(lines)


def open_scores(
    state: AttributionState, member: MemberScores, queries: tuple[str, ...], drawn: Sequence[int]
) -> OpenedScores:
    """What a bundle says of one member: its query vectors, and the rows behind some clusters.

    Args:
        state: of the member's release.
        member: its scores as they were signed; there are some.
        queries: the query vector of each segment, in base64.
        drawn: numbers of clusters. Opened besides are the commitment, which says what the release
            was merged from, and all placebo rows, which the floors need.
    """
    manifest = state.manifest
    tree, opener = manifest.tree(), _Opener(state)
    first = 1 + len(manifest.examples)
    clusters = first + len(manifest.documents)
    placebo = clusters + len(manifest.clusters)
    scored = [segment for segment in member.segments if segment.clusters]
    documents = {d.document for s in scored for n in drawn for d in s.clusters[n].documents}
    last = len(manifest.clusters) - 1
    wanted = {0, *range(placebo - 1, tree.size)}  # what precedes them shows where they begin
    wanted |= {clusters + number for number in drawn}
    wanted |= {
        first + i for i, entry in enumerate(manifest.documents) if entry.document in documents
    }
    return OpenedScores(
        release=member.release,
        queries=queries,
        # Of the last cluster, unless it is drawn, the leaf alone: that needs no row.
        rows=tuple(
            opener.open(tree, place, is_bare=place == placebo - 1 and last not in drawn)
            for place in sorted(wanted)
        ),
    )


def draw(word: str, count: int, total: int) -> list[int]:
    """So many of `total` numbers, which follow from the checker's own word."""
    order = sorted(range(total), key=lambda one: sha256(f"{word} {one}".encode()).digest())
    return sorted(order[:count])


class _Opener:
    def __init__(self, state: AttributionState) -> None:
        manifest, rows = state.manifest, state.rows
        shared = iter(rows.documents)
        documents = [next(shared) if e.row is not None else None for e in manifest.documents]
        head: list[np.ndarray | None] = [None] * (1 + len(manifest.examples))
        self._rows = [*head, *documents, *rows.clusters, *rows.placebo]
        entries: list[msgspec.Struct] = [manifest.commitment, *manifest.examples]
        self._entries = [*entries, *manifest.documents, *manifest.clusters, *manifest.placebo]

    def open(self, tree: Tree, place: int, *, is_bare: bool) -> OpenedRow:
        row = None if is_bare else self._rows[place]
        text = None if row is None else row_text(row)
        return OpenedRow(encode(self._entries[place]).decode(), tree.prove(place), text)


def _check_member(
    member: MemberScores,
    paid: tuple[Parent, ...],
    opened: OpenedScores,
    root: Root,
    state: AttributionState | None,
) -> str:
    scored = _vectors(member, opened)
    if not scored:
        if opened.rows:
            raise VerificationError(f"release {member.release} was not scored, but has rows")
        why = member.unscored or "was owed nothing"
        return f"release {member.release} was not scored: {why}"
    if any(segment.losses_micronats is not msgspec.UNSET for segment, _ in scored):
        if opened.rows:  # they add nothing, but may not lie
            OpenedRows(opened.rows, root, len(scored[0][0].clusters), len(scored[0][1]))
        return _check_audited(member, scored, state)
    if state is not None and any(
        Scoring(state).score(query) != segment.clusters for segment, query in scored
    ):
        raise VerificationError(
            f"the scores of release {member.release} are not what its rows give"
        )
    total = len(scored[0][0].clusters)
    count = total
    if opened.rows or state is None:
        rows = OpenedRows(opened.rows, root, total, len(scored[0][1]))
        if rows.parents != paid:
            raise VerificationError(_OTHERS.format(member.release))
        checked = rows.check(scored)
        count = checked if state is None else total
    return f"the scores of {count} of {total} clusters follow from vectors and rows"


def _check_audited(
    member: MemberScores,
    scored: Sequence[tuple[Segment, np.ndarray]],
    state: AttributionState | None,
) -> str:
    """Redo corrected scores, which follow from all clusters and documents together."""
    if state is None:
        raise InvalidInputError(
            f"the audited scores of release {member.release} are redone from its whole state only: "
            "name its folder"
        )
    audit = state.manifest.audit
    if not isinstance(audit, Audit) or audit.calibration is None:
        raise VerificationError(f"release {member.release} has no half-data adapters to audit with")
    correction = correction_of(state.manifest, len(audit.adapters), audit.calibration)
    for segment, query in scored:
        losses = segment.losses_micronats
        if not isinstance(losses, tuple) or len(losses) != len(audit.adapters):
            raise VerificationError("an audited segment needs one loss a half-data adapter")
        correct = partial(correction.corrected, losses_micronats=losses)
        (expected,) = Scoring(state).scores([query], [correct])
        if not _agree(expected, segment.clusters):
            raise VerificationError(
                f"the audited scores of release {member.release} do not follow from its rows"
            )
    return "all audited scores follow from vectors, rows and the half-data adapters' losses"


def _agree(expected: Sequence[ClusterScore], stated: Sequence[ClusterScore]) -> bool:
    """Whether they are the same but for how another machine rounds the correction."""
    largest = max((abs(cluster.score) for cluster in expected), default=0)
    tolerance = 1 + largest // _ROUNDING
    return len(expected) == len(stated) and all(
        (one.cluster, one.floor) == (other.cluster, other.floor)
        and abs(one.score - other.score) <= tolerance
        # Whose rounding lifts it over its floor earns less than the tolerance by it.
        and (is_paid(one) != is_paid(other) or _same_documents(one, other, tolerance + 1))
        for one, other in zip(expected, stated, strict=True)
    )


def _same_documents(expected: ClusterScore, stated: ClusterScore, tolerance: int) -> bool:
    pairs = [*zip(expected.documents, stated.documents, strict=False)]
    return len(expected.documents) == len(stated.documents) and all(
        (one.document, one.account, one.parts, one.parents)
        == (other.document, other.account, other.parts, other.parents)
        and abs(one.score - other.score) <= tolerance
        for one, other in pairs
    )


def _vectors(member: MemberScores, opened: OpenedScores) -> list[tuple[Segment, np.ndarray]]:
    """The segments that have scores, each with its query vector."""
    if len(opened.queries) != len(member.segments):
        raise VerificationError("the bundle must open one query vector a segment")
    scored = []
    for segment, text in zip(member.segments, opened.queries, strict=True):
        query = integers(text, _QUERY, segment.query, "query vector")
        if segment.clusters:
            scored.append((segment, query))
        elif data_share_ppb(segment.gain) or text:
            raise VerificationError(f"release {member.release} was owed, but was not scored")
    if len({len(segment.clusters) for segment, _ in scored}) > 1:
        raise VerificationError("the segments are scored by different numbers of clusters")
    return scored
