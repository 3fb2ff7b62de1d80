"""The document index: which documents pushed the model most towards an answer, in 4 KiB each.

A row is what the payment has of a document, its strongest features at both checkpoints, turned by a
seeded rotation and kept as one sign a number, with its length: RaBitQ (arXiv 2405.12497), whose
estimate of an inner product is unbiased. Many numbers of one bit keep far more of the order than
few of eight (docs/decisions/0026-evidence-in-signs.md). It shows where to look. What is paid never
comes from here: the payment has exact rows of its own.
"""

import math
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Protocol

import faiss
import msgspec
import numpy as np
from torch import Tensor

from openledger.attribution.method import CHECKPOINTS
from openledger.attribution.state import AttributionState
from openledger.core.errors import DigestMismatchError
from openledger.core.types import Digest

ROW_BYTES = 4_096
_LENGTHS_BYTES = 8  # two numbers of a row beside its signs
SIGNS = 8 * (ROW_BYTES - _LENGTHS_BYTES)
_TURNED = 2**15  # numbers of a whole turn, of which so many are kept as there are signs
_SIDES = (2**7, 2**8)  # their product is that
_DOCUMENTS_AT_ONCE = 256
_QUERY_BITS = 8


class Answers(Protocol):
    """One release, ready to read answers; `attribute.Attributor` is one."""

    def features(self, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> Tensor | None: ...


class Asked(msgspec.Struct, frozen=True):
    """What is looked for: the tokens that a model saw, and those that it gave."""

    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]


class Found(msgspec.Struct, frozen=True):
    """One document and its influence, in units that only this answer has."""

    document: int
    score: float


class Codes(msgspec.Struct, frozen=True):
    """Documents as they are kept."""

    width: int  # of a row of the release
    places: tuple[int, ...]  # of the numbers kept, in each checkpoint's part of such a row
    rows: np.ndarray  # (N, bytes) uint8
    documents: tuple[int, ...]  # of each row


class Projection:
    """From rows of a release to the numbers whose signs are kept."""

    def __init__(self, seed: Digest, width: int, places: Sequence[int]) -> None:
        """`width` is that of the release's rows, the seed is its own."""
        key = sha256(f"openledger evidence 1 {seed}".encode()).digest()[:16]
        stream = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "big")))
        parts = np.arange(width).reshape(CHECKPOINTS, -1)
        self._columns = parts[:, list(places)].ravel()
        # Scattered, since the turns of neighbours would repeat each other.
        self._scattered = stream.permutation(_TURNED)[: len(self._columns)]
        self._signs = stream.choice(np.array([-1, 1], np.float32), len(self._columns))
        self._left, self._right = map(_hadamard, _SIDES)

    def project(self, rows: np.ndarray) -> np.ndarray:
        """(N, SIGNS) float32 of (N, P) rows."""
        spread = np.zeros((len(rows), _TURNED), np.float32)
        spread[:, self._scattered] = rows[:, self._columns] * self._signs
        turned = self._left @ spread.reshape(-1, *_SIDES) @ self._right
        return np.ascontiguousarray(turned.reshape(-1, _TURNED)[:, :SIGNS])


def codes_of(state: AttributionState) -> Codes:
    """All documents of a release."""
    numbers = tuple(entry.document for entry in state.manifest.documents)
    width = state.manifest.commitment.layout.width
    places = _strongest(state)
    projection, empty = Projection(state.manifest.commitment.seed, width, places), _empty()
    coded = [empty.sa_encode(projection.project(some)) for some in _real_rows(state)]
    return Codes(width, places, np.concatenate(coded), numbers)


class DocumentIndex:
    """Documents of a release, ready to be searched; not safe to share between threads."""

    def __init__(self, seed: Digest, codes: Codes) -> None:
        """Take the rows that were kept of the release with this seed.

        Raises:
            DigestMismatchError: the rows are not of this size.
        """
        self._projection = Projection(seed, codes.width, codes.places)
        self._documents = np.array(codes.documents, np.int64)
        self._index = _empty()
        wanted = (len(codes.documents), self._index.sa_code_size())
        if codes.rows.shape != wanted:
            raise DigestMismatchError(
                f"evidence rows of shape {codes.rows.shape}, not {wanted}: train the model again"
            )
        self._index.add_sa_codes(np.ascontiguousarray(codes.rows))

    def search_answer(self, model: Answers, asked: Asked, count: int) -> list[Found]:
        """The documents with the highest influence on an answer; none for one without tokens."""
        features = model.features(asked.prompt_ids, asked.answer_ids)
        return [] if features is None else self.search(features.numpy(), count)

    def search(self, features: np.ndarray, count: int) -> list[Found]:
        """The `count` documents with the highest scores, the highest first.

        Equal scores stand by document.

        Args:
            features: (P,) of the answer.
            count: documents to find.
        """
        if not len(self._documents):
            return []
        query = self._projection.project(features[None])
        scores, rows = self._index.search(query, min(count, len(self._documents)))
        found = [
            Found(int(self._documents[row]), score)
            for row, score in zip(rows[0].tolist(), scores[0].tolist(), strict=True)
        ]
        return sorted(found, key=lambda one: (-one.score, one.document))


def _strongest(state: AttributionState) -> tuple[int, ...]:
    """Of the numbers of each checkpoint those that carry most, as many as there are signs for.

    At all checkpoints the same ones, so that a release's list of them is short.
    """
    each = state.manifest.commitment.layout.width // CHECKPOINTS
    energies = np.zeros((CHECKPOINTS, each))
    for rows in _real_rows(state):
        energies += np.square(rows, dtype=np.float64).sum(0).reshape(CHECKPOINTS, -1)
    parts = energies / energies.sum(1, keepdims=True).clip(np.finfo(np.float64).tiny)
    order = np.argsort(-parts.sum(0), kind="stable")
    return tuple(np.sort(order[: SIGNS // CHECKPOINTS]).tolist())


def _real_rows(state: AttributionState) -> Iterator[np.ndarray]:
    """(N, P) float32 of all documents in their order, some at a time."""
    commitment, rows = state.manifest.commitment, state.rows
    units = np.exp2(np.repeat(commitment.scales.exponents, commitment.layout.widths))
    shared = iter(rows.documents)
    whole = [
        rows.clusters[entry.cluster] if entry.row is None else next(shared)
        for entry in state.manifest.documents
    ]
    for start in range(0, len(whole), _DOCUMENTS_AT_ONCE):
        some = np.stack(whole[start : start + _DOCUMENTS_AT_ONCE])
        yield (some * units).astype(np.float32)


def _empty() -> faiss.IndexRaBitQ:
    index = faiss.IndexRaBitQ(SIGNS, faiss.METRIC_INNER_PRODUCT)
    index.qb = _QUERY_BITS
    # Trained on nothing, its centre is 0: around any other one it estimates inner products worse.
    index.train(np.zeros((1, SIGNS), np.float32))
    return index


def _hadamard(size: int) -> np.ndarray:
    """An orthogonal (size, size) matrix of which every number has the same magnitude."""
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix / np.float32(math.sqrt(size))
