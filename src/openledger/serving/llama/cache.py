"""The paged KV cache: blocks of 16 positions that any sequence may hold (vLLM, arXiv 2309.06180).

Keys lie transposed, so that the scores of a whole block are made at once. Memory is taken from the
system as blocks are first written.
"""

import math

import numpy as np
import torch
from torch import Tensor

from openledger.serving.llama.shape import LlamaShape

BLOCK = 16
_ALIGNMENT = 64


def head_stride(shape: LlamaShape) -> int:
    """Numbers from one value in the cache to the next: a multiple of 16."""
    return -(-shape.head_dim // 16) * 16


def block_bytes(shape: LlamaShape, dtype: torch.dtype) -> int:
    """Memory of one block over all layers."""
    numbers = BLOCK * (shape.head_dim + head_stride(shape))
    return shape.layers * shape.kv_heads * numbers * dtype.itemsize


class PagedCache:
    """Keys and values of all sequences."""

    def __init__(self, shape: LlamaShape, blocks: int, dtype: torch.dtype) -> None:
        self.blocks = blocks
        at = (shape.layers, blocks, shape.kv_heads)
        self.keys = _zeros((*at, shape.head_dim, BLOCK), dtype)
        self.values = _zeros((*at, BLOCK, head_stride(shape)), dtype)


def _zeros(size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros at a multiple of 64 bytes; torch's own would touch all memory at once."""
    count = math.prod(size) * dtype.itemsize
    room = np.zeros(count + _ALIGNMENT, np.uint8)
    first = -room.ctypes.data % _ALIGNMENT
    return torch.from_numpy(room[first : first + count]).view(dtype).view(size)
