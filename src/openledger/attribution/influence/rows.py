"""Rows of small integers instead of real numbers, and their exact products.

Each part of a row, one adapted linear layer at one checkpoint, has a power of two of its own as its
unit. Whitened features carry like energy, which is what lets eight bits hold them.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
import torch
from torch import Tensor

from openledger.core.errors import InvalidInputError

ROW_LIMIT = 127  # int8, symmetric
QUERY_LIMIT = 32_767  # int16, symmetric
_LEAST_EXPONENT = -120
MOST_EXPONENT = 128  # to either side: what float32 holds
_BASE = 128
_DIGITS = 3  # of a number of 16 bits, sign included
_LONGEST_SUM = 2**17  # products of at most 2**13: their sum stays within 2**30
_BLOCK_BYTES = 2**20  # of rows with two bytes a number, which are copied on the way


class Layout(msgspec.Struct, frozen=True):
    """How many numbers each part of a row has."""

    widths: tuple[int, ...]

    @property
    def width(self) -> int:
        """The length of a row: the sum of the parts' widths."""
        return sum(self.widths)


class Scales(msgspec.Struct, frozen=True):
    """Powers of two, one per part: a stored integer times 2**exponent is the real number."""

    exponents: tuple[int, ...]


def scales_for(rows: Tensor, parts: Layout) -> Scales:
    """The finest scales at which no value of these (N, P) rows leaves int8."""
    pieces = torch.split(rows, list(parts.widths), dim=1)
    # A part may be empty: no feature is of its layer.
    peaks = [float(part.abs().amax()) if part.numel() else 0.0 for part in pieces]
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


def squared_lengths(rows: np.ndarray, parts: Layout, scales: Scales) -> list[int]:
    """Of (N, P) integer rows, exact, in units of the finest scale in use."""
    pieces = np.split(rows, np.cumsum(parts.widths)[:-1], axis=1)
    by_part = [np.einsum("np,np->n", one, one, dtype=np.int64) for one in pieces]
    used = [e for e, part in zip(scales.exponents, by_part, strict=True) if part.any()]
    finest = min(used, default=0)
    shifts = [2 * max(0, exponent - finest) for exponent in scales.exponents]
    whole = np.stack(by_part, axis=1).tolist()  # (N, parts)
    return [sum(part << s for part, s in zip(row, shifts, strict=True)) for row in whole]


def dots(queries: np.ndarray, rows: np.ndarray) -> list[list[int]]:
    """Exact integer scores of (K, P) int8 or int16 rows for each of (B, P) int16 queries.

    Rows are read as the bytes they are and multiplied by digits of the queries, eight bits by
    eight with sums of 32 bits. That is a few times what reading the memory takes, and several
    queries at once cost hardly more than one. A digit is at most 64, so that neither such a sum
    overflows nor, on processors that add two products in 16 bits first, does that one.

    Raises:
        InvalidInputError: the rows are of a kind for which that would not hold.
    """
    count, width = rows.shape
    if rows.dtype not in (np.int8, np.int16) or width > 2**22:
        raise InvalidInputError(f"rows of {rows.dtype} and width {width} are not exact")
    digits = _digits(queries)  # (P, 3 B)
    weights = np.tile(_BASE ** np.arange(_DIGITS), len(queries))
    if rows.dtype == np.int8:
        totals = _product(rows, digits) * weights  # (K, 3 B)
    else:
        step = max(1, _BLOCK_BYTES // (2 * width))
        spread = _for_bytes(digits)
        blocks = [_product_of_words(rows[i : i + step], spread) for i in range(0, count, step)]
        empty = np.zeros((0, digits.shape[1]), np.int64)
        totals = (np.concatenate([empty, *blocks]) + 128 * digits.sum(0, dtype=np.int64)) * weights
    scores: list[list[int]] = totals.reshape(count, len(queries), _DIGITS).sum(2).T.tolist()
    return scores


def _digits(queries: np.ndarray) -> np.ndarray:
    """(P, 3 B) int8: the digits of each number to the base 128, from -64 to 63, lowest first."""
    rest = queries.T.astype(np.int32)  # (P, B)
    found = []
    for _ in range(_DIGITS):
        low = (rest + _BASE // 2) % _BASE - _BASE // 2
        found.append(low.astype(np.int8))
        rest = (rest - low) // _BASE
    return np.stack(found, axis=2).reshape(len(rest), -1)


def _for_bytes(digits: np.ndarray) -> np.ndarray:
    """(2 P, 2 N): what the lower and the upper bytes of each number are multiplied by."""
    width, count = digits.shape
    spread = np.zeros((width, 2, 2, count), np.int8)
    spread[:, 0, 0], spread[:, 1, 1] = digits, digits
    return spread.reshape(2 * width, 2 * count)


def _product_of_words(rows: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """(K, N) products of int16 rows from the two bytes of each number, the lower one less 128.

    The lower byte is unsigned, so only then does it fit.
    """
    split = (rows.astype("<i2", copy=False) ^ np.int16(0x80)).view(np.int8)  # (K, 2 P)
    low, high = np.split(_product(split, spread), 2, axis=1)
    words: np.ndarray = low + 256 * high
    return words


def _product(rows: np.ndarray, digits: np.ndarray) -> np.ndarray:
    """(K, N) int64 of (K, W) and (W, N) int8."""
    total = np.zeros((len(rows), digits.shape[1]), np.int64)
    if not len(rows):
        return total
    # PyTorch warns of memory that it may not write to, though this product only reads.
    whole = torch.from_numpy(rows if rows.flags.writeable else rows.copy())
    others = torch.from_numpy(digits)
    for start in range(0, rows.shape[1], _LONGEST_SUM):
        end = start + _LONGEST_SUM
        total += torch._int_mm(whole[:, start:end], others[start:end]).numpy()
    return total


def _exponent(peak: float, limit: int) -> int:
    if peak <= 0:
        return _LEAST_EXPONENT
    exponent = int(np.frexp(peak / limit)[1])  # peak / limit < 2**exponent
    return max(exponent, _LEAST_EXPONENT)


def _per_column(exponents: Sequence[int], parts: Layout) -> Tensor:
    pairs = zip(exponents, parts.widths, strict=True)
    columns = [torch.full((width,), float(e), dtype=torch.float64) for e, width in pairs]
    return torch.cat(columns)
