"""A seeded projection of whitened gradients to few integers, one part per adapted linear layer.

Each part is a balanced count-sketch: its features are put in a random order, given random signs,
dealt into equally large buckets and summed. Inner products survive: <Sx, Sy> has mean <x, y> and
a standard deviation of about |x| |y| / sqrt(width). Time is linear in the number of features and
no matrix is stored: order and signs follow from the seed through Philox, whose stream numpy keeps
the same on every machine. Whiten first, then project: whitened features carry like energy, which
is what lets a few bits hold them.
"""

from collections.abc import Sequence
from hashlib import sha256

import msgspec
import numpy as np
import torch
from torch import Tensor

from openledger.core.errors import InvalidInputError
from openledger.core.types import Digest

ROW_LIMIT = 127  # int8, symmetric
QUERY_LIMIT = 32_767  # int16, symmetric
_LEAST_EXPONENT = -120


class Layout(msgspec.Struct, frozen=True):
    """How many features each part takes in and how many numbers it gives out."""

    sizes: tuple[int, ...]
    widths: tuple[int, ...]

    @property
    def width(self) -> int:
        """The length of a row: the sum of the parts' widths."""
        return sum(self.widths)


def layout(sizes: Sequence[int], width: int) -> Layout:
    """Share `width` among the parts in proportion to their sizes; no part expands its features.

    Raises:
        InvalidInputError: there are no features, or fewer columns than parts.
    """
    total = sum(sizes)
    if not sizes or min(sizes) < 1 or width < len(sizes):
        raise InvalidInputError(f"{len(sizes)} parts of {total} features cannot share {width}")
    widths = [max(1, min(size, width * size // total)) for size in sizes]
    return Layout(tuple(sizes), tuple(widths))


class Sketch:
    """The projection that one seed and one layout stand for."""

    def __init__(self, seed: Digest, parts: Layout) -> None:
        self.layout = parts
        shapes = zip(parts.sizes, parts.widths, strict=True)
        self._parts = [_Part(seed, i, size, width) for i, (size, width) in enumerate(shapes)]

    def project(self, features: Sequence[Tensor]) -> Tensor:
        """Project the parts of some gradients.

        Args:
            features: per part (N, size), float32.

        Returns:
            (N, P) float32.
        """
        pairs = zip(self._parts, features, strict=True)
        return torch.cat([part.project(feature) for part, feature in pairs], dim=1)  # (N, P)


class _Part:
    def __init__(self, seed: Digest, index: int, size: int, width: int) -> None:
        key = sha256(f"openledger sketch 1 {seed} {index}".encode()).digest()[:16]
        keys = np.random.Philox(key=int.from_bytes(key, "big")).random_raw(size)
        # The low bit gives the sign, the rest the order; a stable sort decides ties by position.
        self._order = torch.from_numpy(np.argsort(keys >> np.uint64(1), kind="stable"))
        signs = torch.from_numpy((keys & np.uint64(1)).astype(np.float32) * 2 - 1)
        self._signs = signs[self._order]
        self._depth = -(-size // width)
        self._width = width

    def project(self, features: Tensor) -> Tensor:
        dealt = features[:, self._order] * self._signs  # (N, size)
        spare = self._depth * self._width - dealt.shape[1]
        dealt = torch.nn.functional.pad(dealt, (0, spare))
        # Column j of the deal goes to bucket j modulo width, so no two buckets differ by over one.
        return dealt.view(-1, self._depth, self._width).sum(1)  # (N, width)


class Scales(msgspec.Struct, frozen=True):
    """Powers of two, one per part: a stored integer times 2**exponent is the real number."""

    exponents: tuple[int, ...]


def scales_for(rows: Tensor, parts: Layout) -> Scales:
    """The finest scales at which no value of these (N, P) rows leaves int8."""
    peaks = [float(part.abs().amax()) for part in torch.split(rows, list(parts.widths), dim=1)]
    return Scales(tuple(_exponent(peak, ROW_LIMIT) for peak in peaks))


def quantise_rows(rows: Tensor, parts: Layout, scales: Scales) -> np.ndarray:
    """Round (N, P) rows to int8 at the scales of the release."""
    factors = _per_column(scales.exponents, parts)
    whole = torch.round(rows.double() * torch.exp2(-factors))
    return whole.clamp(-ROW_LIMIT, ROW_LIMIT).to(torch.int8).numpy()


def quantise_query(row: Tensor, parts: Layout, scales: Scales) -> np.ndarray:
    """Round one (P,) query to int16, the scales of the rows folded in.

    After that a plain integer dot product with a stored row is the score, up to one positive
    factor that all rows share.
    """
    scaled = row.double() * torch.exp2(_per_column(scales.exponents, parts))
    exponent = _exponent(float(scaled.abs().amax()), QUERY_LIMIT)
    return torch.round(scaled * 2.0**-exponent).to(torch.int16).numpy()


def dot(query: np.ndarray, rows: np.ndarray) -> list[int]:
    """Exact integer scores of (K, P) rows.

    float64 holds every partial sum exactly: |query| < 2**15, |row| < 2**15 and P <= 2**22 keep
    them below 2**52. It is many times faster than numpy's integer product.

    Raises:
        InvalidInputError: the rows are of a kind for which that would not hold.
    """
    if rows.dtype not in (np.int8, np.int16) or rows.shape[-1] > 2**22:
        raise InvalidInputError(f"rows of {rows.dtype} and width {rows.shape[-1]} are not exact")
    exact = query.astype(np.float64)
    step = 512  # bounds the float copy to 64 MiB at the default width
    blocks = [rows[i : i + step].astype(np.float64) @ exact for i in range(0, len(rows), step)]
    return [int(score) for block in blocks for score in block]


def _exponent(peak: float, limit: int) -> int:
    if peak <= 0:
        return _LEAST_EXPONENT
    exponent = int(np.frexp(peak / limit)[1])  # peak / limit < 2**exponent
    return max(exponent, _LEAST_EXPONENT)


def _per_column(exponents: Sequence[int], parts: Layout) -> Tensor:
    pairs = zip(exponents, parts.widths, strict=True)
    columns = [torch.full((width,), float(e), dtype=torch.float64) for e, width in pairs]
    return torch.cat(columns)
