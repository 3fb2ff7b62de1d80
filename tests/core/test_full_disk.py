"""One translator says what a full disk means, wherever something is written."""

import errno
from pathlib import Path

import pytest
from safetensors import SafetensorError

from openledger.core.errors import StorageFullError, full_disk

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
    with (
        pytest.raises(StorageFullError, match="free some space and try again"),
        full_disk(SafetensorError),
    ):
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
    with pytest.raises(type(error)), full_disk(SafetensorError):
        raise error


def test_an_error_of_a_library_is_read_only_where_it_is_expected() -> None:
    with pytest.raises(SafetensorError), full_disk():
        raise SafetensorError(TOLD.format("No space left on device", errno.ENOSPC))


@pytest.mark.skipif(
    not Path("/dev/full").is_char_device(), reason="there is no device /dev/full here"
)
def test_a_really_full_device_is_a_full_disk() -> None:
    with pytest.raises(StorageFullError), full_disk():
        Path("/dev/full").write_bytes(b"content")
