"""The numbers of a factor in 12 bits each: nothing is lost.

Upper bytes of bfloat16 (sign and exponent but for its last bit) are few among the numbers of one
factor. Each number is its lower byte and the place of its upper byte in a table of 16; the rare
ones with another upper byte are strays, kept whole. `lora.h` describes the order of the bytes.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

TILE = 32  # numbers of one rank that lie together
QUAD = 4  # ranks that lie together
TABLE = 16  # upper bytes of a factor; the first is that of zero
QUAD_BYTES = QUAD * TILE * 3 // 2
STRAY = np.dtype([("column", "<i4"), ("rank", "<u2"), ("bits", "<u2")])

_LOWER_BYTES = QUAD * TILE
# Ranks are (groups, pair, one of it), columns (tiles, half of one, lane, number in it).
_RANKS_FIRST = (0, 3, 1, 5, 2, 6, 4)  # of A: group, tile, and within a quad pair, lane, one, number
_TILES_FIRST = (3, 0, 1, 5, 2, 6, 4)  # of B: tile, group


class Factor(msgspec.Struct, frozen=True):
    """One of A and B transposed, (R, width)."""

    uppers: NDArray[np.uint8]  # (TABLE,)
    quads: NDArray[np.uint8]
    strays: NDArray[np.void]  # (S,) of STRAY, by column


def quads_bytes(rank: int, width: int) -> int:
    """Of a factor, with what it is filled up with."""
    return -(-rank // QUAD) * -(-width // TILE) * QUAD_BYTES


def encode_factor(bits: NDArray[np.uint16], *, is_b: bool) -> Factor:
    """`bits` are those of (R, width) bfloat16 numbers."""
    uppers = bits >> 8
    counts = np.bincount(uppers.ravel(), minlength=256)
    counts[0] = 0
    common = np.argsort(-counts, kind="stable")[: TABLE - 1]
    table = np.zeros(TABLE, np.uint8)
    table[1:] = np.where(counts[common] > 0, common, 0)
    places = np.zeros(256, np.uint8)
    places[table[::-1]] = np.arange(TABLE - 1, -1, -1)
    is_known = np.zeros(256, np.bool_)
    is_known[table] = True
    columns, ranks = np.nonzero(~is_known[uppers].T)
    strays = np.empty(len(columns), STRAY)
    strays["column"], strays["rank"], strays["bits"] = columns, ranks, bits[ranks, columns]
    kept = np.where(is_known[uppers], bits, np.uint16(0))
    numbers = _in_quads(kept, _TILES_FIRST if is_b else _RANKS_FIRST)
    of_table = places[numbers >> 8]
    half = _LOWER_BYTES // 2
    nibbles = of_table[:, :half] | of_table[:, half:] << 4
    quads = np.concatenate([numbers.astype(np.uint8), nibbles], 1)
    return Factor(table, quads.ravel(), strays)


def decode_factor(factor: Factor, rank: int, width: int, *, is_b: bool) -> NDArray[np.uint16]:
    """The (R, width) bits of a factor."""
    quads = factor.quads.reshape(-1, QUAD_BYTES)
    nibbles = quads[:, _LOWER_BYTES:]
    of_table = np.concatenate([nibbles & 15, nibbles >> 4], 1)
    numbers = factor.uppers[of_table].astype(np.uint16) << 8 | quads[:, :_LOWER_BYTES]
    bits = _out_of_quads(numbers, rank, width, _TILES_FIRST if is_b else _RANKS_FIRST)
    strays = factor.strays
    bits[strays["rank"], strays["column"]] = strays["bits"]
    return bits


def _shape(rank: int, width: int) -> tuple[int, ...]:
    return (-(-rank // QUAD), 2, 2, -(-width // TILE), 2, 4, TILE // 8)


def _in_quads(bits: NDArray[np.uint16], order: tuple[int, ...]) -> NDArray[np.uint16]:
    """(R, width) to (quads, QUAD * TILE), filled up with zeros."""
    rank, width = bits.shape
    padded = np.pad(bits, ((0, -rank % QUAD), (0, -width % TILE)))
    return padded.reshape(_shape(rank, width)).transpose(order).reshape(-1, _LOWER_BYTES)


def _out_of_quads(
    numbers: NDArray[np.uint16], rank: int, width: int, order: tuple[int, ...]
) -> NDArray[np.uint16]:
    shape = _shape(rank, width)
    laid = numbers.reshape([shape[axis] for axis in order])
    whole = laid.transpose(np.argsort(order)).reshape(-(-rank // QUAD) * QUAD, -1)
    return np.ascontiguousarray(whole[:rank, :width])
