"""Level 1, full: the integer scores once more, bit by bit, from query vector and rows.

Every row is proved under the training root that the receipt names. With the release's whole state
all scores are redone; from a bundle alone those of the clusters whose rows it opens. That the
vector is the answer's own is level 2.
"""

import binascii
from base64 import b64decode
from collections.abc import Mapping, Sequence
from functools import partial
from hashlib import sha256

import msgspec
import numpy as np

from openledger.attribution.card.figures import Audit
from openledger.attribution.card.panel import correction_of
from openledger.attribution.influence.rows import dots
from openledger.attribution.scoring import Noise, Scoring
from openledger.attribution.state import (
    AttributionState,
    ClusterEntry,
    DocumentEntry,
    PlaceboEntry,
    row_text,
)
from openledger.core.encoding import decode, encode, parse_json
from openledger.core.errors import InvalidInputError, VerificationError
from openledger.core.merkle import Tree
from openledger.core.merkle import verify as verify_proof
from openledger.core.types import Digest
from openledger.flows.money.verify.anchors import Anchors
from openledger.flows.money.verify.bundle import (
    Bundle,
    FullBundle,
    OpenedRow,
    OpenedScores,
)
from openledger.settlement.shares import (
    ClusterScore,
    DocumentScore,
    MemberScores,
    Segment,
    data_share_ppb,
    is_paid,
)

LEVEL = "L1 full"
ROW_METHODS = (2,)  # versions in which a score is the product of the query vector with one row

_ROUNDING = 10**9  # of the largest score: what the order of a sum may change of a correction

_QUERY, _WIDE, _NARROW = np.dtype("<i2"), np.dtype("<i2"), np.dtype("i1")
_KINDS: tuple[type["_Entry"], ...] = (ClusterEntry, DocumentEntry, PlaceboEntry)
_Entry = ClusterEntry | DocumentEntry | PlaceboEntry


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
        root = _Root(mixed.training_root, known.training_size if known else None)
        lines.append(_check_member(member, opened, root, states.get(member.release)))
    return tuple(lines)


def open_scores(
    state: AttributionState, member: MemberScores, queries: tuple[str, ...], drawn: Sequence[int]
) -> OpenedScores:
    """What a bundle says of one member: its query vectors, and the rows behind some clusters.

    Args:
        state: of the member's release.
        member: its scores as they were signed; there are some.
        queries: the query vector of each segment, in base64.
        drawn: numbers of clusters. Placebo rows are opened besides: the floors need them all.
    """
    manifest = state.manifest
    tree, opener = manifest.tree(), _Opener(state)
    first = 1 + len(manifest.examples)
    clusters = first + len(manifest.documents)
    placebo = clusters + len(manifest.clusters)
    scored = [segment for segment in member.segments if segment.clusters]
    documents = {d.document for s in scored for n in drawn for d in s.clusters[n].documents}
    last = len(manifest.clusters) - 1
    wanted = set(range(placebo - 1, tree.size))  # what precedes shows where they begin
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


class _Root(msgspec.Struct, frozen=True):
    root: Digest
    size: int | None  # None: nothing but the proofs tells it


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
    member: MemberScores, opened: OpenedScores, root: _Root, state: AttributionState | None
) -> str:
    scored = _vectors(member, opened)
    if not scored:
        if opened.rows:
            raise VerificationError(f"release {member.release} was not scored, but has rows")
        why = member.unscored or "was owed nothing"
        return f"release {member.release} was not scored: {why}"
    if any(segment.losses_micronats is not msgspec.UNSET for segment, _ in scored):
        if opened.rows:  # they add nothing, but may not lie
            _Rows(opened.rows, root, len(scored[0][0].clusters), len(scored[0][1]))
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
        checked = _Rows(opened.rows, root, total, len(scored[0][1])).check(scored)
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
        (one.document, one.account, one.parts) == (other.document, other.account, other.parts)
        and abs(one.score - other.score) <= tolerance
        for one, other in pairs
    )


def _vectors(member: MemberScores, opened: OpenedScores) -> list[tuple[Segment, np.ndarray]]:
    """The segments that have scores, each with its query vector."""
    if len(opened.queries) != len(member.segments):
        raise VerificationError("the bundle must open one query vector a segment")
    scored = []
    for segment, text in zip(member.segments, opened.queries, strict=True):
        query = _integers(text, _QUERY, segment.query, "query vector")
        if segment.clusters:
            scored.append((segment, query))
        elif data_share_ppb(segment.gain) or text:
            raise VerificationError(f"release {member.release} was owed, but was not scored")
    if len({len(segment.clusters) for segment, _ in scored}) > 1:
        raise VerificationError("the segments are scored by different numbers of clusters")
    return scored


class _Rows:
    """The opened leaves of one tree, proved."""

    def __init__(self, opened: Sequence[OpenedRow], root: _Root, clusters: int, width: int) -> None:
        self._width = width
        self.clusters: dict[int, tuple[ClusterEntry, np.ndarray | None]] = {}
        self.documents: dict[int, tuple[DocumentEntry, np.ndarray | None]] = {}
        self.placebo: list[tuple[PlaceboEntry, np.ndarray]] = []
        places: dict[int, _Entry] = {}
        for one in opened:
            entry = _entry(one.leaf)
            verify_proof(one.leaf.encode(), one.proof, root.root)
            size = one.proof.size if root.size is None else root.size
            if one.proof.size != size or one.proof.size != opened[0].proof.size:
                raise VerificationError("the rows are proved in trees of different sizes")
            if one.proof.index in places:
                raise VerificationError(f"leaf {one.proof.index} is opened twice")
            places[one.proof.index] = entry
            self._add(entry, one)
        self._check_places(places, opened[0].proof.size if opened else 0, clusters)

    def check(self, scored: Sequence[tuple[Segment, np.ndarray]]) -> int:
        """Check what is stated of every cluster whose row is opened; how many that are."""
        for segment, query in scored:
            self._check_segment(segment.clusters, query)
        return sum(row is not None for _, row in self.clusters.values())

    def _check_segment(self, stated: Sequence[ClusterScore], query: np.ndarray) -> None:
        noise = Noise(
            _scores(query, [row for _, row in self.placebo]),
            [entry.energy for entry, _ in self.placebo],
        )
        for number, (entry, row) in self.clusters.items():
            if row is None:
                continue
            cluster, (score,) = stated[number], _scores(query, [row])
            if (cluster.score, cluster.floor) != (score, noise.floor(entry.energy)):
                raise VerificationError(f"the score of cluster {number} is not what its row gives")
            if is_paid(cluster):
                for document in cluster.documents:
                    self._check_document(document, cluster, query)

    def _check_document(
        self, stated: DocumentScore, cluster: ClusterScore, query: np.ndarray
    ) -> None:
        if stated.document not in self.documents:
            raise VerificationError(f"document {stated.document} is paid, but not opened")
        entry, row = self.documents[stated.document]
        if (entry.account, entry.cluster) != (stated.account, cluster.cluster):
            raise VerificationError(f"document {stated.document} is of another account or cluster")
        if entry.parts != stated.parts:
            raise VerificationError(f"document {stated.document} is credited otherwise")
        (score,) = (cluster.score,) if row is None else _scores(query, [row])
        if stated.score != score:
            raise VerificationError(f"the score of document {stated.document} is not its row's")

    def _add(self, entry: _Entry, one: OpenedRow) -> None:
        match entry:
            case PlaceboEntry():
                self.placebo.append((entry, _row(one, _NARROW, entry.row)))
            case ClusterEntry():
                row = None if one.row is None else self._sum(one, entry.row)
                self.clusters[entry.cluster] = (entry, row)
            case DocumentEntry():
                if entry.row is None and one.row is not None:
                    raise VerificationError(f"document {entry.document} has no row of its own")
                own = None if entry.row is None else _row(one, _NARROW, entry.row)
                self.documents[entry.document] = (entry, own)

    def _sum(self, one: OpenedRow, wanted: Digest) -> np.ndarray:
        """A cluster's row, of wide integers where its sums need them.

        Its length tells; that the width is right the placebo rows show, which are always narrow.
        """
        row = _row(one, _NARROW, wanted)
        return row.view(_WIDE) if len(row) == 2 * self._width else row

    def _check_places(self, places: Mapping[int, _Entry], size: int, clusters: int) -> None:
        """The last leaves are the placebo rows, all of them; the clusters stand just before."""
        behind = size - len(self.placebo)
        wanted = {behind + entry.placebo for entry, _ in self.placebo}
        wanted |= {behind - clusters + number for number in self.clusters}
        # A document's leaf names it, and its cluster's sum shows that none is missing.
        found = {p for p, entry in places.items() if not isinstance(entry, DocumentEntry)}
        if wanted != found or any(places[behind + e.placebo] != e for e, _ in self.placebo):
            raise VerificationError("opened rows stand at other places than their numbers'")
        if clusters - 1 not in self.clusters or not self.placebo:
            raise VerificationError("the bundle does not open the placebo rows and what precedes")


def _entry(leaf: str) -> _Entry:
    try:
        names = set(parse_json(leaf.encode()))
    except (InvalidInputError, TypeError) as error:
        raise VerificationError(f"an opened leaf is no record: {error}") from error
    for kind in _KINDS:
        if names == set(kind.__struct_fields__):
            return decode(leaf.encode(), kind)
    raise VerificationError("an opened leaf is neither cluster, document nor placebo row")


def _row(one: OpenedRow, kind: np.dtype, wanted: Digest) -> np.ndarray:
    return _integers(one.row or "", kind, wanted, f"row of leaf {one.proof.index}")


def _integers(text: str, kind: np.dtype, wanted: Digest, name: str) -> np.ndarray:
    try:
        raw = b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise VerificationError(f"the {name} is no base64") from error
    if sha256(raw).hexdigest() != wanted or len(raw) % kind.itemsize:
        raise VerificationError(f"the {name} is not the one that was signed")
    return np.frombuffer(raw, kind)


def _scores(query: np.ndarray, rows: Sequence[np.ndarray]) -> list[int]:
    if any(row.shape != query.shape for row in rows):
        raise VerificationError("query vector and rows are of different widths")
    return [score for row in rows for score in dots(query[None], row[None])[0]]
