"""What a full disk means while models are written: nothing was lost, try again.

safetensors reports it as an error of its own, whose message alone holds the system's number.
"""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError

from openledger.core.errors import StorageFullError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NUMBER = re.compile(r"\(os error (\d+)\)")


@contextmanager
def full_disk() -> Iterator[None]:
    """Around whatever writes tensors.

    Raises:
        StorageFullError: there is no room.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if _errno(error) in _FULL:
            raise StorageFullError(
                "the disk is full; nothing was lost, free some space and try again"
            ) from error
        raise


def _errno(error: OSError | SafetensorError) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    found = _NUMBER.search(str(error))
    return None if found is None else int(found[1])
