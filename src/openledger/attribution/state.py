"""The attribution state of a release: a folder whose every byte the training root commits to.

`factors.safetensors` holds the whitening, `rows.safetensors` the integer rows and the token counts
of the null model, `manifest.json` what they mean. The **training root** is an RFC 6962 root over
canonical JSON leaves: the commitment, then each training example in the order of training, each
document, each cluster, each placebo row. Vectors stand in it by their digest, so one row can be
opened and proved without the others. All of the folder is as secret as the data it comes from.
"""

import os
import shutil
import tempfile
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file as save_tensors
from torch import Tensor

from openledger.attribution.card.figures import Audit
from openledger.attribution.influence.curvature import Basis, Features, Site, Whitener
from openledger.attribution.influence.rows import Layout, Scales
from openledger.attribution.method import METHOD_VERSION
from openledger.core.encoding import decode, encode
from openledger.core.errors import (
    DigestMismatchError,
    InvalidInputError,
    NotFoundError,
    full_disk,
)
from openledger.core.merkle import Tree
from openledger.core.types import Account, Digest
from openledger.lm.base import digest_file
from openledger.settlement.shares import CreditPart

MANIFEST = "manifest.json"
FACTORS = "factors.safetensors"
ROWS = "rows.safetensors"

Read = Callable[[Path], bytes]


class ExampleEntry(msgspec.Struct, frozen=True):
    """One training example, in the order of the training manifest."""

    digest: Digest
    document: int


class DocumentEntry(msgspec.Struct, frozen=True):
    """One training document."""

    document: int
    account: Account
    cluster: int
    energy: int  # squared length of its integer row
    row: Digest | None  # None where it is alone in its cluster: the cluster's row is its own
    parts: tuple[CreditPart, ...]  # who is paid for it; none: the account alone
    # Of a merge: the places of the parents that were trained on it, rising.
    parents: tuple[int, ...] | msgspec.UnsetType = msgspec.UNSET


class ClusterEntry(msgspec.Struct, frozen=True):
    """One content cluster; its row is the integer sum of its documents' rows."""

    cluster: int
    energy: int  # sum over its documents
    row: Digest


class PlaceboEntry(msgspec.Struct, frozen=True):
    """One row of scrambled text, which shows what a row without content would score."""

    placebo: int
    energy: int
    row: Digest


class CommittedParent(msgspec.Struct, frozen=True):
    """A release that went into a merge."""

    release: int  # its number on chain
    account: Account  # who built it
    without: Digest | None  # the adapter that the others make without it; None: there is no other


class Commitment(msgspec.Struct, frozen=True):
    """What the rows were made with."""

    method: int
    base: Digest
    adapter: Digest
    early: Digest  # the adapter after a quarter of its training
    seed: Digest  # of the run: sampled labels and placebo follow from it
    sites: tuple[Site, ...]
    layout: Layout
    scales: Scales
    factors: Digest  # of the file; they also say which numbers a row is made of
    null_model: Digest  # of the token counts
    signatures: Digest  # of the runs of tokens that do not count
    audit: Audit | msgspec.UnsetType = msgspec.UNSET  # where there are half-data adapters
    # What it was merged from, in rising order; unset: it was trained.
    parents: tuple[CommittedParent, ...] | msgspec.UnsetType = msgspec.UNSET


class StateManifest(msgspec.Struct, frozen=True):
    """Everything about a state but its numbers."""

    commitment: Commitment
    examples: tuple[ExampleEntry, ...]
    documents: tuple[DocumentEntry, ...]
    clusters: tuple[ClusterEntry, ...]
    placebo: tuple[PlaceboEntry, ...]
    rows: Digest  # of the file

    @property
    def audit(self) -> Audit | msgspec.UnsetType:
        """What half-data adapters showed, where the release has any."""
        return self.commitment.audit

    def tree(self) -> Tree:
        """The tree under the training root."""
        entries: list[msgspec.Struct] = [self.commitment, *self.examples, *self.documents]
        return Tree([encode(entry) for entry in [*entries, *self.clusters, *self.placebo]])


class Rows(msgspec.Struct, frozen=True):
    """The integers that answers are scored with."""

    clusters: np.ndarray  # (K, P) int8, or int16 where a cluster's sum needs it
    documents: np.ndarray  # (N, P) int8, only of documents that share a cluster, in their order
    placebo: np.ndarray  # (M, P) int8
    counts: np.ndarray  # (V,) int64, how often each token stands in the training data
    signatures: np.ndarray  # (S, SIGNATURE_TOKENS) int32


class AttributionState(msgspec.Struct, frozen=True):
    """A state in memory."""

    manifest: StateManifest
    whitener: Whitener
    rows: Rows
    training_root: Digest
    training_size: int


def row_text(row: np.ndarray) -> str:
    """A row's integers, little-endian, as base64: how rows and query vectors travel."""
    return b64encode(row.astype(row.dtype.newbyteorder("<")).tobytes()).decode()


def digest_of_row(row: np.ndarray) -> Digest:
    """The sha256 of a row's integers, little-endian."""
    return Digest(sha256(row.astype(row.dtype.newbyteorder("<")).tobytes()).hexdigest())


@full_disk(SafetensorError)
def write_state(folder: Path, whitener: Whitener, manifest: StateManifest, rows: Rows) -> None:
    """Write a state whole or not at all; what stood in that folder before is replaced.

    `manifest.rows` and the commitment's factors are filled in from the files as written.

    Raises:
        StorageFullError: the disk is full.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".attribution-", dir=folder.parent))
    try:
        save_tensors(_named(whitener), scratch / FACTORS)
        save_arrays(msgspec.structs.asdict(rows), scratch / ROWS)
        replace = msgspec.structs.replace
        complete = replace(
            manifest,
            commitment=replace(manifest.commitment, factors=digest_file(scratch / FACTORS)),
            rows=digest_file(scratch / ROWS),
        )
        (scratch / MANIFEST).write_bytes(encode(complete))
        for name in (FACTORS, ROWS, MANIFEST):
            with (scratch / name).open("rb") as stream:
                os.fsync(stream.fileno())
        shutil.rmtree(folder, ignore_errors=True)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@full_disk()
def commit_audit(folder: Path, audit: Audit) -> AttributionState:
    """Put an audit under the training root of a state, whole or not at all.

    Raises:
        StorageFullError: the disk is full.
    """
    manifest = load_state(folder).manifest
    commitment = msgspec.structs.replace(manifest.commitment, audit=audit)
    scratch = folder / f".{MANIFEST}"
    with scratch.open("wb") as stream:
        stream.write(encode(msgspec.structs.replace(manifest, commitment=commitment)))
        stream.flush()
        os.fsync(stream.fileno())
    scratch.replace(folder / MANIFEST)
    return load_state(folder)


def load_state(
    folder: Path, expected_root: Digest | None = None, read: Read = Path.read_bytes
) -> AttributionState:
    """Read a state and check all of it.

    Args:
        folder: where its files lie.
        expected_root: the training root that the release committed to.
        read: the content of a file, where it does not lie there as it is.

    Raises:
        NotFoundError: there is none in this folder.
        DigestMismatchError: a file is not what the manifest says, or the manifest is not what
            `expected_root` commits to.
        InvalidInputError: it was made by another version of the method.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise NotFoundError(f"there is no attribution state in {folder}: build the release first")
    manifest = decode(read(path), StateManifest)
    if manifest.commitment.method != METHOD_VERSION:
        raise InvalidInputError(
            f"{folder} was made by method {manifest.commitment.method}, this is {METHOD_VERSION}"
        )
    tree = manifest.tree()
    if expected_root is not None and tree.root != expected_root:
        raise DigestMismatchError(f"{folder} has training root {tree.root}, not {expected_root}")
    factors = _promised(folder / FACTORS, manifest.commitment.factors, read)
    try:
        whitener = _whitener(manifest.commitment.sites, load_tensors(factors))
    except (SafetensorError, KeyError) as error:
        raise DigestMismatchError(f"{folder / FACTORS} holds no whitening") from error
    rows = _read_rows(folder / ROWS, manifest, read)
    return AttributionState(manifest, whitener, rows, tree.root, tree.size)


def state_bytes(folder: Path) -> int:
    """The size of a state on disk."""
    return sum((folder / name).stat().st_size for name in (FACTORS, ROWS, MANIFEST))


def _promised(path: Path, digest: Digest, read: Read) -> bytes:
    if not path.is_file():
        raise NotFoundError(f"{path} is missing")
    content = read(path)
    if sha256(content).hexdigest() != digest:
        raise DigestMismatchError(f"{path} was altered: build the release again")
    return content


def _read_rows(path: Path, manifest: StateManifest, read: Read) -> Rows:
    try:
        rows = Rows(**load_arrays(_promised(path, manifest.rows, read)))
    except (SafetensorError, KeyError, TypeError) as error:  # KeyError: a type numpy lacks
        raise DigestMismatchError(f"{path} holds no attribution rows") from error
    shared = [entry.row for entry in manifest.documents if entry.row is not None]
    _check_rows(rows.clusters, [entry.row for entry in manifest.clusters])
    _check_rows(rows.documents, shared)
    _check_rows(rows.placebo, [entry.row for entry in manifest.placebo])
    if digest_of_row(rows.counts) != manifest.commitment.null_model:
        raise DigestMismatchError(f"{path} holds another null model than the release committed to")
    if digest_of_row(rows.signatures) != manifest.commitment.signatures:
        raise DigestMismatchError(f"{path} holds other signatures than the release committed to")
    return rows


def _check_rows(rows: np.ndarray, digests: Sequence[Digest]) -> None:
    if rows.ndim != 2 or [digest_of_row(row) for row in rows] != list(digests):
        raise DigestMismatchError(
            "the attribution rows are not those that the release committed to"
        )


def _named(whitener: Whitener) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for kind, bases in (("in", whitener.wide_in), ("out", whitener.wide_out)):
        for name, basis in bases.items():
            named |= {f"levels_{kind}:{name}": basis.levels, f"steps_{kind}:{name}": basis.steps}
    for kind, ranks in (("out", whitener.rank_out), ("in", whitener.rank_in)):
        named |= {f"rank_{kind}:{name}": basis.contiguous() for name, basis in ranks.items()}
    for name, chosen in whitener.features.items():
        named |= {f"places:{name}": chosen.places, f"scales:{name}": chosen.scales}
    return named


def _whitener(sites: tuple[Site, ...], named: Mapping[str, Tensor]) -> Whitener:
    kinds: dict[str, dict[str, Tensor]] = {}
    for key, tensor in named.items():
        kind, _, name = key.partition(":")
        kinds.setdefault(kind, {})[name] = tensor
    return Whitener(
        sites=sites,
        wide_in={n: Basis(v, kinds["steps_in"][n]) for n, v in kinds["levels_in"].items()},
        wide_out={n: Basis(v, kinds["steps_out"][n]) for n, v in kinds["levels_out"].items()},
        rank_out=kinds["rank_out"],
        rank_in=kinds["rank_in"],
        features={n: Features(p, kinds["scales"][n]) for n, p in kinds["places"].items()},
    )
