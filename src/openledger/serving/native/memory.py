"""Memory in large pages, for what every step reads from end to end.

In pages of 4 KiB finding them takes some twentieth of a step. Linux gives 2 MiB to who asks for
them; elsewhere it is memory as any other.
"""

import mmap
from collections.abc import Sequence
from math import prod

import numpy as np
import structlog
import torch
from torch import Tensor

log = structlog.get_logger()

_PAGE = 1 << 21
_CHUNK = 1 << 26  # asked for at once; what is not used of it takes addresses only
_ALIGNMENT = 64


class LargePages:
    """Hands out tensors that lie side by side."""

    def __init__(self) -> None:
        self._left = np.empty(0, np.uint8)

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """One of zeros."""
        size = prod(shape) * dtype.itemsize
        room = -(-size // _ALIGNMENT) * _ALIGNMENT
        if room > len(self._left):
            self._left = _chunk(max(room, _CHUNK))
        taken, self._left = self._left[:size], self._left[room:]
        return torch.from_numpy(taken).view(dtype).view(tuple(shape))


def _chunk(size: int) -> np.ndarray:
    memory = mmap.mmap(-1, size + _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            memory.madvise(mmap.MADV_HUGEPAGE)
        except OSError as error:  # a kernel that was built without
            log.debug("no large pages", why=str(error))
    whole = np.frombuffer(memory, np.uint8)
    return whole[-whole.ctypes.data % _PAGE :]
