"""The manifest of a contribution: which chunks, in which order, of which documents.

Its root is an RFC 6962 tree whose leaf for chunk i is the 32 bytes
sha256(salt || chunk digest || index of its document as 4 bytes, big-endian). Whoever holds the
manifest and the chunks can recompute it; whoever sees the chain alone can test no guess, since
the salt stays with the manifest and is destroyed when the contribution is withdrawn.
"""

from collections.abc import Sequence

import msgspec

from openledger.core import merkle
from openledger.core.encoding import decode, digest_of, encode, salted_digest
from openledger.core.errors import DigestMismatchError, InvalidProofError, VerificationError
from openledger.core.merkle import Proof, Tree
from openledger.core.types import Digest, as_bytes, digest
from openledger.datanet.chunk import Chunk, text_digest
from openledger.datanet.clean import Drop
from openledger.datanet.extract import Document


class DocumentEntry(msgspec.Struct, frozen=True):
    """What a manifest says of one document; its text is in the chunks."""

    title: str
    licence: str
    key: str
    origin: str
    contributor: str
    others: tuple[str, ...]
    chunks: int  # how many of the manifest's chunks are its own; they follow each other


class Manifest(msgspec.Struct, frozen=True):
    """One contribution as it is anchored; canonical bytes by `core.encoding`."""

    version: int
    rules: Digest  # the Datanet's rules at the time
    files: Digest  # of the raw files: what was committed on chain before it was stored
    salt: str  # 32 bytes in hex
    documents: tuple[DocumentEntry, ...]
    chunks: tuple[Digest, ...]  # in order
    root: Digest
    size_bytes: int  # of all chunks' texts in UTF-8
    report: tuple[Drop, ...]

    @property
    def size(self) -> int:
        """Leaves under the root."""
        return len(self.chunks)


class Origin(msgspec.Struct, frozen=True):
    """What a manifest is bound to besides its chunks."""

    rules: Digest
    files: Digest
    salt: bytes  # 32 random bytes of the contributor


def make_manifest(
    documents: Sequence[Document],
    chunks: Sequence[Chunk],
    report: tuple[Drop, ...],
    origin: Origin,
) -> Manifest:
    """List chunks and documents; a document without a chunk is left out."""
    counts = [0] * len(documents)
    for chunk in chunks:
        counts[chunk.document] += 1
    kept = [index for index, count in enumerate(counts) if count]
    entries = tuple(_entry(documents[index], counts[index]) for index in kept)
    digests = tuple(chunk.digest for chunk in chunks)
    return Manifest(
        version=1,
        rules=origin.rules,
        files=origin.files,
        salt=origin.salt.hex(),
        documents=entries,
        chunks=digests,
        root=_tree(origin.salt, entries, digests).root,
        size_bytes=sum(len(chunk.text.encode()) for chunk in chunks),
        report=report,
    )


def manifest_digest(manifest: Manifest) -> Digest:
    """The digest that is anchored on chain beside the root."""
    return digest_of(manifest)


def write_manifest(manifest: Manifest) -> bytes:
    """Canonical bytes."""
    return encode(manifest)


def read_manifest(raw: bytes) -> Manifest:
    """Read a manifest and check that its root follows from its own lists.

    Raises:
        VerificationError: not canonical, or the root does not follow.
    """
    manifest = decode(raw, Manifest)
    check_root(manifest)
    return manifest


def check_root(manifest: Manifest) -> None:
    """Check that the root follows from salt, documents and chunk digests.

    Raises:
        VerificationError: it does not, or the documents do not account for every chunk.
    """
    counts = [entry.chunks for entry in manifest.documents]
    if min(counts, default=1) < 1 or sum(counts) != manifest.size:
        raise VerificationError("the manifest's documents do not account for its chunks")
    found = _manifest_tree(manifest).root
    if found != manifest.root:
        raise VerificationError(f"the chunks have the root {found}, not {manifest.root}")


def verify(manifest: Manifest, texts: Sequence[str]) -> None:
    """Check that these texts are the manifest's chunks, all of them and in order.

    Raises:
        DigestMismatchError: a chunk is missing, altered or out of place; the message says which.
        VerificationError: the manifest contradicts itself.
    """
    check_root(manifest)
    if len(texts) != manifest.size:
        raise DigestMismatchError(f"there are {len(texts)} chunks, not {manifest.size}")
    for index, (text, expected) in enumerate(zip(texts, manifest.chunks, strict=True)):
        if text_digest(text) != expected:
            raise DigestMismatchError(f"chunk {index} is not the one in the manifest")
    if sum(len(text.encode()) for text in texts) != manifest.size_bytes:
        raise VerificationError("the manifest states another size in bytes than its chunks have")


def document_of(manifest: Manifest) -> list[int]:
    """For each chunk the index of its document among `manifest.documents`."""
    return _owners(manifest.documents)


def prove_chunk(manifest: Manifest, index: int) -> Proof:
    """Prove that chunk `index` stands under the root.

    Raises:
        InvalidProofError: there is no such chunk.
    """
    return _manifest_tree(manifest).prove(index)


def verify_chunk(manifest: Manifest, text: str, proof: Proof) -> None:
    """Check one chunk against the root by its proof.

    Raises:
        InvalidProofError: it is not that chunk.
    """
    if proof.size != manifest.size or not 0 <= proof.index < manifest.size:
        raise InvalidProofError(f"the proof is not of a tree of {manifest.size} chunks")
    document = document_of(manifest)[proof.index]
    leaf = leaf_bytes(bytes.fromhex(manifest.salt), text_digest(text), document)
    merkle.verify(leaf, proof, manifest.root)


def leaf_bytes(salt: bytes, chunk: Digest, document: int) -> bytes:
    """The leaf of one chunk (32 bytes), as the head of this module defines it."""
    return as_bytes(salted_digest(salt, as_bytes(chunk) + document.to_bytes(4, "big")))


def _entry(document: Document, chunks: int) -> DocumentEntry:
    return DocumentEntry(
        title=document.title,
        licence=document.licence,
        key=document.key,
        origin=document.origin,
        contributor=document.contributor,
        others=document.others,
        chunks=chunks,
    )


def _manifest_tree(manifest: Manifest) -> Tree:
    try:
        salt = as_bytes(digest(manifest.salt))
        return _tree(salt, manifest.documents, manifest.chunks)
    except ValueError as error:
        raise VerificationError(f"the manifest is malformed: {error}") from error


def _tree(salt: bytes, entries: Sequence[DocumentEntry], chunks: Sequence[Digest]) -> Tree:
    owners = _owners(entries)
    return Tree(
        [leaf_bytes(salt, chunk, owner) for chunk, owner in zip(chunks, owners, strict=True)]
    )


def _owners(entries: Sequence[DocumentEntry]) -> list[int]:
    return [index for index, entry in enumerate(entries) for _ in range(entry.chunks)]
