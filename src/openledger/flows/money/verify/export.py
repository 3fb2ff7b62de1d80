"""A release as a folder for a party or an auditor: all but the base model, signed by the gateway.

`release.json` names every file by its digest, and what of it stands on chain: base, adapter,
training root, plan, ordered training manifest, seed. Whoever has the folder holds all of it to the
receipt he checks, and to the chain if he has anchors. The base model is fetched by its digest
instead.

Everything but the plan and the manifest is as secret as the texts it was learned from; the texts
themselves are in it only when they were asked for.
"""

import re
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path

import msgspec

from openledger.attribution.card.figures import Audit
from openledger.attribution.state import StateManifest
from openledger.core.encoding import decode, digest_of, encode, parse_json
from openledger.core.errors import (
    ConflictError,
    DigestMismatchError,
    InvalidInputError,
    NotFoundError,
    VerificationError,
    full_disk,
)
from openledger.core.signing import Domain, TypedRecord, verify_typed
from openledger.core.types import Digest
from openledger.flows.money.verify.anchors import Anchors, ReleaseAnchor
from openledger.settlement.price import MixMember
from openledger.settlement.receipt import Receipt
from openledger.training.merging.ways import Merging
from openledger.training.recipe import Recipe
from openledger.training.rows import Example
from openledger.training.task import TrainingManifest

RELEASE = "release.json"
ADAPTER = "adapter"
EARLY = "early"  # the adapter after a quarter of its training, where influence is measured too
_HALF = "half_{:03}"  # the half-data adapters that audited answers are corrected by, in their order
_WITHOUT = "without_{:03}"  # of a merge, what the others make without each of its parents
ATTRIBUTION = "attribution"
PLAN = "training/plan.json"
MANIFEST = "training/manifest.json"
TEXTS = "training/texts.json"
EXPORT_VERSION = 1

_PATH = re.compile(r"[a-z0-9_]+/[a-z0-9_.]+\.(?:json|safetensors)")


class ReleaseFolder(TypedRecord, frozen=True):
    """What the gateway signs of an export."""

    solidity = {"version": "uint256", "body": "bytes32"}  # noqa: RUF012 - ClassVar

    version: int
    body: Digest


class ExportedFile(msgspec.Struct, frozen=True):
    """One file of an export."""

    path: str  # in the folder, with a slash
    digest: Digest
    size_bytes: int


class ExportBody(msgspec.Struct, frozen=True):
    """What an export is."""

    version: int
    name: str  # owner/name@version
    release: ReleaseAnchor
    files: tuple[ExportedFile, ...]  # by path


class SignedExport(msgspec.Struct, frozen=True):
    """The content of `release.json`."""

    body: ExportBody
    signature: str


class CardPlan(msgspec.Struct, frozen=True):
    """What was planned to be measured."""

    half_adapters: int


class PlannedMember(msgspec.Struct, frozen=True):
    """A release that was planned to be merged."""

    release: int
    adapter: Digest
    early: Digest
    weight_ppb: int


class PlannedMerge(msgspec.Struct, frozen=True):
    """What was planned to be merged."""

    merging: Merging
    members: tuple[PlannedMember, ...]


class AuditPlan(msgspec.Struct, frozen=True):
    """What the anchored plan of a run says that can be checked; the rest concerns other steps."""

    recipe: Recipe
    held_out_bps: int
    card: CardPlan | None = None
    merge: PlannedMerge | None = None  # None: it was trained


class Texts(msgspec.Struct, frozen=True):
    """The training texts, in the order of the training manifest, one for each of its rows."""

    examples: tuple[Example, ...]


class Export(msgspec.Struct, frozen=True):
    """An export that holds."""

    folder: Path
    body: ExportBody

    @property
    def attribution(self) -> Path:
        """The folder of the attribution state."""
        return self.folder / ATTRIBUTION

    def texts(self) -> tuple[Example, ...]:
        """The training texts.

        Raises:
            NotFoundError: they are not in it.
            VerificationError: they are not those of the training manifest.
        """
        if not (self.folder / TEXTS).is_file():
            raise NotFoundError(
                f"{self.folder} holds no training texts: have it made by `model export --texts`"
            )
        examples = decode((self.folder / TEXTS).read_bytes(), Texts).examples
        manifest = decode((self.folder / MANIFEST).read_bytes(), TrainingManifest)
        digests = [sha256(one.text.encode()).hexdigest() for one in examples]
        if not digests == [one.digest for one in examples] == [r.chunk for r in manifest.rows]:
            raise VerificationError("the training texts are not those of the training manifest")
        return examples


def adapter_folders(manifest: StateManifest, released: Digest) -> dict[Digest, str]:
    """Every adapter that a release's answers are attributed with, and its folder in an export."""
    audit = manifest.audit
    halves = audit.adapters if isinstance(audit, Audit) else ()
    named = {digest: _HALF.format(number) for number, digest in enumerate(halves)}
    parents = manifest.commitment.parents or ()
    named |= {
        one.without: _WITHOUT.format(number)
        for number, one in enumerate(parents)
        if one.without is not None
    }
    # A training of one step ends where its first quarter does: one adapter, both names' content.
    return {**named, manifest.commitment.early: EARLY, released: ADAPTER}


def write_export(
    folder: Path,
    name: str,
    release: ReleaseAnchor,
    files: Mapping[str, bytes],
    sign: Callable[[ReleaseFolder], str],
) -> ExportBody:
    """Write an export into a folder that is new or empty.

    Raises:
        ConflictError: something stands there.
        StorageFullError: the disk is full.
    """
    check_new(folder)
    listed = tuple(
        ExportedFile(path, Digest(sha256(content).hexdigest()), len(content))
        for path, content in sorted(files.items())
    )
    body = ExportBody(EXPORT_VERSION, name, release, listed)
    with full_disk():
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        signature = sign(ReleaseFolder(EXPORT_VERSION, digest_of(body)))
        # Last: a folder without it is not finished.
        (folder / RELEASE).write_bytes(encode(SignedExport(body, signature)))
    return body


def check_new(folder: Path) -> None:
    """Check that an export may be written to a folder.

    Raises:
        InvalidInputError: it is not an absolute path, and a server has another working folder.
        ConflictError: something stands there.
    """
    if not folder.is_absolute():
        raise InvalidInputError(f"{folder} is no absolute path")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConflictError(f"{folder} is not an empty folder: name a new one")


def open_export(folder: Path, receipt: Receipt, anchors: Anchors | None) -> Export:
    """Read an export and hold every byte of it to a receipt that was checked.

    Raises:
        NotFoundError: there is no export in this folder.
        VerificationError: it is not the receipt's release, not the gateway's, or altered.
    """
    path = folder / RELEASE
    if not path.is_file():
        raise NotFoundError(f"there is no export of a release in {folder}: no {RELEASE}")
    signed = decode(path.read_bytes(), SignedExport)
    body, call = signed.body, receipt.call.call
    if body.version != EXPORT_VERSION:
        raise VerificationError(f"export version {body.version} is unknown to this verifier")
    head = ReleaseFolder(body.version, digest_of(body))
    verify_typed(Domain(call.chain_id, call.escrow), head, signed.signature, call.gateway)
    member = next((m for m in receipt.call.body.mix if m.release == body.release.number), None)
    _check_release(body, member, receipt.call.body.base, anchors)
    _check_files(folder, body)
    _check_training(folder, body.release)
    _check_members(folder, anchors)
    return Export(folder, body)


def parent_root(folder: Path, anchors: Anchors | None) -> Digest:
    """The training root of a release that was merged, by its own export.

    Raises:
        NotFoundError: there is no export in this folder.
        VerificationError: it is not what stands on chain.
    """
    path = folder / RELEASE
    if not path.is_file():
        raise NotFoundError(f"there is no export of a release in {folder}: no {RELEASE}")
    body = decode(path.read_bytes(), SignedExport).body
    known = None if anchors is None else anchors.release(body.release.number)
    if known is not None and known.training_root != body.release.training_root:
        raise VerificationError(f"this export of {body.name} is not what stands on chain")
    return body.release.training_root


def _check_release(
    body: ExportBody, member: MixMember | None, base: Digest, anchors: Anchors | None
) -> None:
    release = body.release
    if member is None:
        raise VerificationError(f"{body.name} is not the release that answered")
    stated = (member.name, base, member.adapter, member.training_root)
    if stated != (body.name, release.base, release.adapter, release.training_root):
        raise VerificationError(f"this export of {body.name} is not the release of the receipt")
    known = None if anchors is None else anchors.release(release.number)
    if known is not None and None in (known.builder, release.builder):
        builder = known.builder or release.builder
        known, release = (msgspec.structs.replace(one, builder=builder) for one in (known, release))
    if known is not None and known != release:
        raise VerificationError(f"this export of {body.name} is not what stands on chain")


def _check_files(folder: Path, body: ExportBody) -> None:
    listed = {one.path for one in body.files}
    if wrong := sorted(path for path in listed if not _PATH.fullmatch(path)):
        raise VerificationError(f"an export holds no file {wrong[0]!r}")
    there = {one.relative_to(folder).as_posix() for one in folder.rglob("*") if not one.is_dir()}
    if there != listed | {RELEASE}:
        odd = sorted(there ^ (listed | {RELEASE}))
        raise DigestMismatchError(f"{odd[0]} is missing or not part of this export")
    for one in body.files:
        content = (folder / one.path).read_bytes()
        if (sha256(content).hexdigest(), len(content)) != (one.digest, one.size_bytes):
            raise DigestMismatchError(f"{folder / one.path} was altered: have it exported again")


def read_plan(folder: Path) -> AuditPlan:
    """The plan in an export; its digest was held to the one that was anchored.

    Raises:
        VerificationError: it is no plan of a training.
    """
    try:
        return msgspec.convert(parse_json((folder / PLAN).read_bytes()), AuditPlan)
    except (InvalidInputError, msgspec.ValidationError) as error:
        raise VerificationError(f"the export holds no plan of a training: {error}") from error


def _check_members(folder: Path, anchors: Anchors | None) -> None:
    """What a merge was planned to be made of are the releases that stand on chain."""
    merge = read_plan(folder).merge
    for member in merge.members if merge else ():
        known = None if anchors is None else anchors.release(member.release)
        if known is not None and known.adapter != member.adapter:
            raise VerificationError(f"release {member.release}, which was merged, is another one")


def _check_training(folder: Path, release: ReleaseAnchor) -> None:
    manifest = decode((folder / MANIFEST).read_bytes(), TrainingManifest)
    if (manifest.root, len(manifest.rows)) != (release.manifest_root, release.manifest_size):
        raise DigestMismatchError("the training manifest is not the one that was anchored")
    plan = sha256((folder / PLAN).read_bytes()).hexdigest()
    if plan != release.recipe:
        raise DigestMismatchError("the plan of the training is not the one that was anchored")
