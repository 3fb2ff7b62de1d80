"""From files to a contribution that is ready to be anchored, and back: does it still hold?

`commitment` binds the raw files; it is on chain before anything of them is stored. `prepare` reads,
cleans, compares, cuts and lists, and stores nothing; `verify` is for everyone afterwards.
"""

from collections import Counter
from collections.abc import Sequence
from hashlib import sha256

import msgspec

from openledger.core.encoding import digest_of, salted_digest
from openledger.core.errors import DigestMismatchError, InvalidInputError, NotAllowedError
from openledger.core.types import Digest, as_bytes
from openledger.datanet import chunk as chunking
from openledger.datanet import clean as cleaning
from openledger.datanet import extract as extracting
from openledger.datanet import manifest as manifests
from openledger.datanet.chunk import Chunk
from openledger.datanet.clean import Drop, Reason
from openledger.datanet.duplicates import Known, without_duplicates
from openledger.datanet.extract import Document, File
from openledger.datanet.manifest import Manifest, Origin
from openledger.datanet.rules import Rules, check_licence, rules_digest


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How this room reads, cleans and cuts."""

    extract: extracting.Config = extracting.Config()
    clean: cleaning.Config = cleaning.Config()
    chunk: chunking.Config = chunking.Config()


class Secrets(msgspec.Struct, frozen=True):
    """What a contribution is hidden by; neither is ever published."""

    salt: bytes  # 32 random bytes of this contribution
    network_key: bytes  # 32 bytes, the key of the network's duplicate index


class Prepared(msgspec.Struct, frozen=True):
    """A contribution that is ready to be anchored and stored."""

    manifest: Manifest
    chunks: tuple[Chunk, ...]  # in the manifest's order
    fingerprints: tuple[Digest, ...]  # one a chunk, for the network's duplicate index


class _FileEntry(msgspec.Struct, frozen=True):
    name: str
    digest: Digest


class _FileList(msgspec.Struct, frozen=True):
    files: tuple[_FileEntry, ...]


def files_digest(files: Sequence[File]) -> Digest:
    """The digest of raw files with their names, in the order given."""
    entries = (_FileEntry(file.name, Digest(sha256(file.raw).hexdigest())) for file in files)
    return digest_of(_FileList(tuple(entries)))


def commitment(files: Sequence[File], salt: bytes) -> Digest:
    """The salted digest of the raw files, to be committed on chain before they are stored."""
    return salted_digest(salt, as_bytes(files_digest(files)))


def prepare(
    files: Sequence[File],
    licence: str,
    rules: Rules,
    secrets: Secrets,
    known: Known,
    config: Config,
) -> Prepared:
    """Turn files into a contribution.

    Args:
        files: at least one.
        licence: of the documents that do not name their own; "" when all do.
        rules: of the Datanet.
        secrets: salt and network key.
        known: looks up earlier chunks by fingerprint.
        config: limits.

    Raises:
        InvalidInputError: a file cannot be read, or nothing is left to contribute.
        NotAllowedError: no document has a licence that the rules allow.
        DuplicateError: all of it was contributed before.
    """
    anchor = Origin(rules_digest(rules), files_digest(files), secrets.salt)
    documents, refused = _read(files, licence, rules, config)
    cleaned = cleaning.clean(documents, config.clean)
    distinct = without_duplicates(
        chunking.chunk(cleaned.documents, config.chunk), secrets.network_key, known
    )
    if not distinct.chunks:
        raise InvalidInputError("nothing is left after cleaning: give files with text of your own")
    report = refused + cleaned.drops + distinct.drops
    manifest = manifests.make_manifest(cleaned.documents, distinct.chunks, report, anchor)
    return Prepared(manifest, _renumbered(distinct.chunks), distinct.fingerprints)


def verify(manifest: Manifest, chunks: Sequence[Chunk]) -> None:
    """Check that these chunks are what the manifest lists.

    Raises:
        VerificationError: a chunk is missing, altered, moved to another document or out of
            place, or the manifest contradicts itself.
    """
    manifests.verify(manifest, [chunk.text for chunk in chunks])
    expected = manifests.document_of(manifest)
    for index, (chunk, document) in enumerate(zip(chunks, expected, strict=True)):
        if chunk.document != document or chunk.digest != manifest.chunks[index]:
            raise DigestMismatchError(f"chunk {index} is filed under another document")


def _read(
    files: Sequence[File], licence: str, rules: Rules, config: Config
) -> tuple[list[Document], tuple[Drop, ...]]:
    """Documents under allowed licences, and a line of the report for each licence refused."""
    if not files:
        raise InvalidInputError("a contribution needs at least one file")
    allowed: list[Document] = []
    refused: Counter[str] = Counter()
    last: NotAllowedError | None = None
    for file in files:
        for document in extracting.extract(file, licence, config.extract):
            try:
                check_licence(rules, document.licence)
            except NotAllowedError as error:
                refused[document.licence] += 1
                last = error
            else:
                allowed.append(document)
    if last is not None and not allowed:
        raise last
    lines = (Drop(Reason.LICENCE, refused[name], name) for name in sorted(refused))
    return allowed, tuple(lines)


def _renumbered(chunks: Sequence[Chunk]) -> tuple[Chunk, ...]:
    """Number documents as the manifest does, which leaves out those without a chunk."""
    numbers: dict[int, int] = {}
    for chunk in chunks:
        numbers.setdefault(chunk.document, len(numbers))
    return tuple(
        msgspec.structs.replace(chunk, document=numbers[chunk.document]) for chunk in chunks
    )
