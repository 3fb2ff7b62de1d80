"""Every error a caller may catch, each with a stable `code`.

A message says cause and cure in one sentence. The edges (`cli`, `web`) map the class to an exit
code or an HTTP status once; the mapping is documented in `docs/reference/errors.md`.
"""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

DISK_FULL = "the disk is full; nothing was lost, free some space and try again"

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")


class OpenLedgerError(Exception):
    """The root of every error this package raises on purpose."""

    code: ClassVar[str] = "failed"

    def __init__(self, message: str, **details: str) -> None:
        super().__init__(message)
        self.details = details


class InvalidInputError(OpenLedgerError):
    """The caller gave something that no retry will mend."""

    code = "invalid_input"


class ContextExceededError(InvalidInputError):
    """The prompt leaves no room for an answer; clients of OpenAI's API know it by this code."""

    code = "context_length_exceeded"


class NotFoundError(OpenLedgerError):
    """No thing of that name; the message holds the nearest names."""

    code = "not_found"


class ModelNotFoundError(NotFoundError):
    """No model of that name; clients of OpenAI's API know it by this code."""

    code = "model_not_found"


class NotAllowedError(OpenLedgerError):
    """The caller is known and may not do this."""

    code = "not_allowed"


class UnauthenticatedError(OpenLedgerError):
    """No key, an unknown key or a revoked one."""

    code = "unauthenticated"


class InsufficientBalanceError(OpenLedgerError):
    """The prepaid balance or a cap cannot cover the most this call may cost."""

    code = "insufficient_balance"


class ConflictError(OpenLedgerError):
    """It contradicts what already stands: a duplicate, a reused key, a second owner."""

    code = "conflict"


class NothingToSettleError(ConflictError):
    """Every attributed receipt stands in an epoch already."""

    code = "nothing_to_settle"


class DuplicateError(ConflictError):
    """The same content was contributed before; the message names the first."""

    code = "duplicate"


class UnavailableError(OpenLedgerError):
    """Not now: chain down, engine busy, home taken by another process; try again."""

    code = "unavailable"


class SourceUnavailableError(UnavailableError):
    """The packages of one source are not here and cannot be fetched; everything else goes on."""

    code = "source_unavailable"


class EngineFullError(UnavailableError):
    """As many answers are under way as the engine takes; `details["retry_after_s"]` says when."""

    code = "engine_full"


class EngineFaultError(OpenLedgerError):
    """Our side broke while it answered; the call costs nothing."""

    code = "engine_fault"


class HomeBusyError(UnavailableError):
    """Another process owns this home."""

    code = "home_busy"


class ChainUnavailableError(UnavailableError):
    """The chain does not answer; what was queued waits in the outbox."""

    code = "chain_unavailable"


class StorageFullError(UnavailableError):
    """The disk is full; nothing was lost, free some space and try again."""

    code = "storage_full"


class StoppedError(UnavailableError):
    """This process is asked to end; what it was doing goes on at the next start."""

    code = "stopped"


class ChainRejectedError(OpenLedgerError):
    """A contract refused; the message carries its reason."""

    code = "chain_rejected"


class WrongChainError(InvalidInputError):
    """The endpoint serves another chain than this home was made for."""

    code = "wrong_chain"


class VerificationError(OpenLedgerError):
    """A signature, digest, proof or sum does not hold."""

    code = "verification_failed"


class InvalidProofError(VerificationError):
    """A Merkle proof does not lead to the root."""

    code = "invalid_proof"


class DigestMismatchError(VerificationError):
    """Bytes on disk or in flight are not those that were promised."""

    code = "digest_mismatch"


class NothingToSplitError(OpenLedgerError):
    """There is money to divide and no weight above zero."""

    code = "nothing_to_split"


@contextmanager
def full_disk(*kinds: type[Exception]) -> Iterator[None]:
    """Around whatever writes: say what a full disk means to the caller.

    Args:
        kinds: errors of libraries that tell the system's number in their message alone.

    Raises:
        StorageFullError: there is no room, or the quota is used up.
    """
    told: tuple[type[Exception], ...] = (OSError, *kinds)
    try:
        yield
    except told as error:
        if _system_number(error) in _FULL:
            raise StorageFullError(DISK_FULL) from error
        raise


def _system_number(error: Exception) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    found = _SYSTEM_ERROR.search(str(error))
    return None if found is None else int(found[1])
