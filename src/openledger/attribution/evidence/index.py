"""The document index: which training rows pushed the model most towards an answer, in 4 KiB a row.

A row is the whitened gradient that the payment starts from, turned by a seeded rotation and kept
as one sign a number, with its length: RaBitQ (arXiv 2405.12497), whose estimate of an inner product
is unbiased. Many numbers of one bit keep far more of the order than few of eight
(docs/decisions/0026-evidence-in-signs.md). It shows where to look. What is paid never comes
from here: the payment has exact rows of its own.
"""

import math
from collections.abc import Sequence
from hashlib import sha256
from typing import Protocol

import faiss
import msgspec
import numpy as np
import torch
from torch import Tensor

from openledger.attribution.influence.sketch import Sketch, layout
from openledger.core.errors import DigestMismatchError
from openledger.core.types import Digest

ROW_BYTES = 4_096  # at most
_LENGTHS_BYTES = 8  # two numbers of a row beside its signs
WIDTH = 8 * (ROW_BYTES - _LENGTHS_BYTES)  # signs
_TURNED_TOGETHER = 64
_QUERY_BITS = 8


class Answers(Protocol):
    """One release, ready to read answers; `attribute.Attributor` is one."""

    def features(self, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> list[Tensor]: ...


class Asked(msgspec.Struct, frozen=True):
    """What is looked for: the tokens that a model saw, and those that it gave."""

    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]


class Found(msgspec.Struct, frozen=True):
    """One document and the influence of its rows, in units that only this answer has."""

    document: int
    score: float


class Codes(msgspec.Struct, frozen=True):
    """Training rows as they are kept."""

    sizes: tuple[int, ...]  # of the parts of a whitened gradient
    rows: np.ndarray  # (N, bytes) uint8
    documents: tuple[int, ...]  # of each row


class Projection:
    """From whitened gradients to the numbers whose signs are kept."""

    def __init__(self, seed: Digest, sizes: Sequence[int]) -> None:
        """`sizes` are of the parts of a gradient, the seed is that of the release."""
        own = Digest(sha256(f"openledger evidence 1 {seed}".encode()).hexdigest())
        # All parts as one: mixed with each other their numbers are of one size, as signs need it.
        self._sketch = Sketch(own, layout([sum(sizes)], WIDTH))
        self._spare = -self._sketch.layout.width % _TURNED_TOGETHER
        self._turn = _hadamard(_TURNED_TOGETHER)

    @property
    def width(self) -> int:
        """How many numbers come out."""
        return self._sketch.layout.width + self._spare

    def project(self, features: Sequence[Tensor]) -> np.ndarray:
        """(N, W) float32 of gradients given in parts."""
        dealt = self._sketch.project([torch.cat([*features], dim=1)])
        dealt = torch.nn.functional.pad(dealt, (0, self._spare))  # (N, W)
        turned = dealt.view(len(dealt), -1, _TURNED_TOGETHER) @ self._turn
        return turned.view(len(dealt), -1).numpy()


class Rows:
    """Codes of training rows, gathered on their way through the building of a release."""

    def __init__(self, seed: Digest) -> None:
        self._sizes: tuple[int, ...] = ()
        self._seed = seed
        self._projection: Projection | None = None
        self._codes: dict[int, np.ndarray] = {}

    def hear(self, rows: Sequence[int], features: Sequence[Tensor]) -> None:
        """Keep the codes of these rows, whose whitened gradients are given in parts."""
        if self._projection is None:
            self._sizes = tuple(part.shape[1] for part in features)
            self._projection = Projection(self._seed, self._sizes)
        values = self._projection.project(features)
        codes = _empty(self._projection.width).sa_encode(values)
        self._codes |= dict(zip(rows, codes, strict=True))

    def codes(self, documents: Sequence[int]) -> Codes:
        """Those of the first rows, which are of these documents."""
        whole = np.stack([self._codes[row] for row in range(len(documents))])
        return Codes(self._sizes, whole, tuple(documents))


class DocumentIndex:
    """Rows of a release, ready to be searched; not safe to share between threads."""

    def __init__(self, seed: Digest, codes: Codes) -> None:
        """Take the rows that were kept of the release with this seed.

        Raises:
            DigestMismatchError: the rows are not of this size.
        """
        self._projection = Projection(seed, codes.sizes)
        self._documents = np.array(codes.documents, np.int64)
        self._index = _empty(self._projection.width)
        wanted = (len(codes.documents), self._index.sa_code_size())
        if codes.rows.shape != wanted:
            raise DigestMismatchError(
                f"evidence rows of shape {codes.rows.shape}, not {wanted}: train the model again"
            )
        self._index.add_sa_codes(np.ascontiguousarray(codes.rows))

    def search_answer(self, model: Answers, asked: Asked, count: int) -> list[Found]:
        """The documents with the highest influence on an answer; none for one without tokens."""
        features = model.features(asked.prompt_ids, asked.answer_ids)
        return self.search(features, count) if features else []

    def search(self, features: Sequence[Tensor], count: int) -> list[Found]:
        """The documents of the `count` rows with the highest scores, the highest first.

        Equal scores stand by document. A document's score is the sum over those of its rows.

        Args:
            features: (1, size) parts of the answer's whitened gradient.
            count: rows to find.
        """
        if not len(self._documents):
            return []
        query = self._projection.project(features)
        scores, rows = self._index.search(query, min(count, len(self._documents)))
        total: dict[int, float] = {}
        for row, score in zip(rows[0].tolist(), scores[0].tolist(), strict=True):
            document = int(self._documents[row])
            total[document] = total.get(document, 0.0) + score
        return [Found(one, total[one]) for one in sorted(total, key=lambda d: (-total[d], d))]


def _empty(width: int) -> faiss.IndexRaBitQ:
    index = faiss.IndexRaBitQ(width, faiss.METRIC_INNER_PRODUCT)
    index.qb = _QUERY_BITS
    # Trained on nothing, its centre is 0: around any other one it estimates inner products worse.
    index.train(np.zeros((1, width), np.float32))
    return index


def _hadamard(size: int) -> Tensor:
    """An orthogonal (size, size) matrix of which every number has the same magnitude."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / math.sqrt(size)
