"""A full disk is told apart from other trouble, whoever reports it."""

import errno

import pytest
from safetensors import SafetensorError

from openledger.core.errors import StorageFullError
from openledger.lm.disk import full_disk

TOLD = "Error while serializing: I/O error: {} (os error {})"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError(TOLD.format("No space left on device", errno.ENOSPC)),
        SafetensorError(TOLD.format("Disk quota exceeded", errno.EDQUOT)),
    ],
)
def test_a_full_disk_is_said_to_be_full(error: Exception) -> None:
    with pytest.raises(StorageFullError, match="free some space and try again"), full_disk():
        raise error


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied"),
        SafetensorError(TOLD.format("Permission denied", errno.EACCES)),
        SafetensorError("invalid header"),
        ValueError("(os error 28)"),
    ],
)
def test_everything_else_stays_what_it_is(error: Exception) -> None:
    with pytest.raises(type(error)), full_disk():
        raise error
