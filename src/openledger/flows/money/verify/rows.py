"""The leaves under a training root that a bundle opens: proved, and their scores redone."""

import binascii
from base64 import b64decode
from collections.abc import Mapping, Sequence
from hashlib import sha256

import msgspec
import numpy as np

from openledger.attribution.influence.rows import dots
from openledger.attribution.scoring import Noise
from openledger.attribution.state import (
    ClusterEntry,
    Commitment,
    DocumentEntry,
    PlaceboEntry,
)
from openledger.core.encoding import decode, parse_json
from openledger.core.errors import InvalidInputError, VerificationError
from openledger.core.merkle import verify as verify_proof
from openledger.core.types import Digest
from openledger.flows.money.verify.bundle import Bundle, OpenedRow
from openledger.settlement.parts import Parent
from openledger.settlement.shares import ClusterScore, DocumentScore, Segment, is_paid

_WIDE, _NARROW = np.dtype("<i2"), np.dtype("i1")
_KINDS: tuple[type["_Entry"], ...] = (ClusterEntry, DocumentEntry, PlaceboEntry, Commitment)
_Entry = ClusterEntry | DocumentEntry | PlaceboEntry | Commitment
_OPTIONAL = {"audit", "parents"}  # of a leaf, where there is one


class Root(msgspec.Struct, frozen=True):
    """A training root."""

    root: Digest
    size: int | None  # None: nothing but the proofs tells it


def parents_paid(bundle: Bundle, release: int) -> tuple[Parent, ...]:
    """What a receipt says that a release was merged from."""
    places = [member.release for member in bundle.receipt.call.body.mix]
    named = bundle.receipt.statement.body.roles.parent
    return () if named is None else named[places.index(release)]


def parents_of(commitment: Commitment) -> tuple[Parent, ...]:
    """What a release committed to having been merged from."""
    return tuple(Parent(one.release, one.account) for one in commitment.parents or ())


class OpenedRows:
    """The opened leaves of one tree, proved."""

    def __init__(self, opened: Sequence[OpenedRow], root: Root, clusters: int, width: int) -> None:
        self._width = width
        self.clusters: dict[int, tuple[ClusterEntry, np.ndarray | None]] = {}
        self.documents: dict[int, tuple[DocumentEntry, np.ndarray | None]] = {}
        self.placebo: list[tuple[PlaceboEntry, np.ndarray]] = []
        self.parents: tuple[Parent, ...] | None = None  # as the commitment says, once it is opened
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
            scores_of(query, [row for _, row in self.placebo]),
            [entry.energy for entry, _ in self.placebo],
        )
        for number, (entry, row) in self.clusters.items():
            if row is None:
                continue
            cluster, (score,) = stated[number], scores_of(query, [row])
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
        if (entry.parts, entry.parents) != (stated.parts, stated.parents):
            raise VerificationError(f"document {stated.document} is credited otherwise")
        (score,) = (cluster.score,) if row is None else scores_of(query, [row])
        if stated.score != score:
            raise VerificationError(f"the score of document {stated.document} is not its row's")

    def _add(self, entry: _Entry, one: OpenedRow) -> None:
        match entry:
            case Commitment():
                self.parents = parents_of(entry)
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
        wanted |= set() if self.parents is None else {0}
        # A document's leaf names it, and its cluster's sum shows that none is missing.
        found = {p for p, entry in places.items() if not isinstance(entry, DocumentEntry)}
        if wanted != found or any(places[behind + e.placebo] != e for e, _ in self.placebo):
            raise VerificationError("opened rows stand at other places than their numbers'")
        if clusters - 1 not in self.clusters or not self.placebo:
            raise VerificationError("the bundle does not open the placebo rows and what precedes")
        if self.parents is None:
            raise VerificationError("the bundle does not open the release's commitment")


def _entry(leaf: str) -> _Entry:
    try:
        names = set(parse_json(leaf.encode()))
    except (InvalidInputError, TypeError) as error:
        raise VerificationError(f"an opened leaf is no record: {error}") from error
    for kind in _KINDS:
        if names | _OPTIONAL == set(kind.__struct_fields__) | _OPTIONAL:
            return decode(leaf.encode(), kind)
    raise VerificationError("an opened leaf is no cluster, document, placebo row or commitment")


def _row(one: OpenedRow, kind: np.dtype, wanted: Digest) -> np.ndarray:
    return integers(one.row or "", kind, wanted, f"row of leaf {one.proof.index}")


def integers(text: str, kind: np.dtype, wanted: Digest, name: str) -> np.ndarray:
    """Whole numbers from their base64.

    Raises:
        VerificationError: it is none, or its sha256 is not `wanted`.
    """
    try:
        raw = b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise VerificationError(f"the {name} is no base64") from error
    if sha256(raw).hexdigest() != wanted or len(raw) % kind.itemsize:
        raise VerificationError(f"the {name} is not the one that was signed")
    return np.frombuffer(raw, kind)


def scores_of(query: np.ndarray, rows: Sequence[np.ndarray]) -> list[int]:
    """The exact products of a query vector with some rows.

    Raises:
        VerificationError: they are of different widths.
    """
    if any(row.shape != query.shape for row in rows):
        raise VerificationError("query vector and rows are of different widths")
    return [score for row in rows for score in dots(query[None], row[None])[0]]
