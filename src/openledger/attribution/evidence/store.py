"""What a release keeps of its evidence: which sealed object holds whose rows, and of what.

Gradients are text, so each contribution's rows are one object of the vault under that
contribution's own key, and whoever destroys the key of a withdrawn text has destroyed its vectors
with it. Only the list of these objects lies open, beside the attribution state. Texts, spans and
the suffix array are not kept at all: they come from the vault when somebody asks, so that there is
no second copy which a withdrawal might forget.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from openledger.core.encoding import decode, encode
from openledger.core.errors import DigestMismatchError, full_disk
from openledger.core.types import Digest
from openledger.storage.blobs import write_atomically

MANIFEST = "evidence.json"


class EvidencePart(msgspec.Struct, frozen=True):
    """The rows of one contribution."""

    contribution: int  # its number on chain
    first: int  # the release's number of its first document; the others follow in order
    documents: tuple[int, ...]  # the release's numbers of those that have rows, in that order
    blob: Digest  # of the ciphertext


class EvidenceManifest(msgspec.Struct, frozen=True):
    """The evidence of one release."""

    adapter: Digest
    seed: Digest
    width: int  # of a row of its state
    places: tuple[int, ...]  # of the numbers kept, in each checkpoint's part of such a row
    parts: tuple[EvidencePart, ...]


def object_of(contribution: str, adapter: Digest) -> str:
    """The vault's name of the rows that a contribution, by its row id, has in a release."""
    return f"{contribution}/evidence/{adapter}"


def pack(codes: np.ndarray) -> bytes:
    """The bytes of (N, bytes) codes."""
    return codes.tobytes()


def unpack_all(parts: Sequence[bytes], rows: int) -> np.ndarray:
    """(N, bytes) codes from the bytes of several parts.

    Raises:
        DigestMismatchError: they are not of so many rows.
    """
    raw = b"".join(parts)
    if len(raw) % max(1, rows):
        raise DigestMismatchError(f"{len(raw)} bytes of evidence are not of {rows} rows")
    return np.frombuffer(raw, np.uint8).reshape(rows, len(raw) // max(1, rows))


def write_manifest(folder: Path, manifest: EvidenceManifest) -> None:
    """Write it into the run's folder, whole or not at all.

    Raises:
        StorageFullError: the disk is full.
    """
    with full_disk():
        write_atomically(folder / MANIFEST, encode(manifest))


def read_manifest(folder: Path) -> EvidenceManifest | None:
    """The evidence of a run; none if it was trained before evidence was kept."""
    path = folder / MANIFEST
    return decode(path.read_bytes(), EvidenceManifest) if path.is_file() else None
