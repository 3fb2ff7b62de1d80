"""What contributions consist of: documents, chunks, and the index that says who was first.

The index holds keyed digests and is network-wide: the first contribution that enters a digest
owns it, and its entry outlives a withdrawal, so that nobody else can earn on the text.
"""

from collections.abc import Iterator, Sequence

import msgspec
from sqlalchemy import delete, select

from openledger.core.errors import ConflictError
from openledger.core.types import Account, Digest
from openledger.storage.database import Transaction
from openledger.storage.records.rows import every, first, insert_new, stream, values_of
from openledger.storage.tables import chunks, contributions, documents, duplicate_index

_LOOKED_UP_AT_ONCE = 500


class DocumentRow(msgspec.Struct, frozen=True):
    """One document of a contribution, without its text."""

    contribution: str  # row id
    position: int  # as in the manifest
    title: str
    key: str  # what the held-out split goes by
    licence: str
    contributor_name: str


class ChunkRow(msgspec.Struct, frozen=True):
    """One chunk of a contribution; the text is in the blob, encrypted."""

    contribution: str  # row id
    position: int  # as in the manifest
    document: int
    digest: Digest  # of the clean text
    size_bytes: int
    blob: Digest  # of the ciphertext


class Mark(msgspec.Struct, frozen=True):
    """A keyed digest of text, and the document that holds it."""

    keyed_digest: Digest
    document: int


class First(msgspec.Struct, frozen=True):
    """Who owns a piece of text, being first."""

    keyed_digest: Digest
    contribution: str  # row id
    contributor: Account


def chunk_object(contribution: str, position: int) -> str:
    """The vault's name of one chunk."""
    return f"{contribution}/{position}"


def manifest_object(contribution: str) -> str:
    """The vault's name of a contribution's manifest."""
    return f"{contribution}/manifest"


def store(
    transaction: Transaction, document_rows: Sequence[DocumentRow], chunk_rows: Sequence[ChunkRow]
) -> None:
    """Store the documents and chunks of one contribution; a repeat keeps the first blobs.

    Raises:
        ConflictError: other chunks stand there.
    """
    insert_new(transaction, documents, [values_of(row) for row in document_rows])
    insert_new(transaction, chunks, [values_of(row) for row in chunk_rows])
    for contribution in sorted({row.contribution for row in chunk_rows}):
        wanted = [row.digest for row in chunk_rows if row.contribution == contribution]
        if [row.digest for row in chunks_of(transaction, contribution)] != wanted:
            raise ConflictError(f"the contribution {contribution} is stored with other chunks")


def documents_of(transaction: Transaction, contribution_id: str) -> list[DocumentRow]:
    """A contribution's documents in order."""
    query = select(documents).where(documents.c.contribution == contribution_id)
    return every(transaction, query.order_by(documents.c.position), DocumentRow)


def chunks_of(transaction: Transaction, contribution_id: str) -> Iterator[ChunkRow]:
    """A contribution's chunks in order."""
    query = select(chunks).where(chunks.c.contribution == contribution_id)
    return stream(transaction, query.order_by(chunks.c.position), ChunkRow)


def chunk_by_digest(transaction: Transaction, digest: Digest) -> ChunkRow | None:
    """A chunk of this text; of several, any one."""
    return first(transaction, select(chunks).where(chunks.c.digest == digest), ChunkRow)


def forget(transaction: Transaction, contribution_id: str) -> list[Digest]:
    """Delete a withdrawn contribution's documents and chunks, keeping its index entries.

    Returns:
        The blobs that no chunk refers to any more.
    """
    blobs = [row.blob for row in chunks_of(transaction, contribution_id)]
    for table in (chunks, documents):
        transaction.connection.execute(delete(table).where(table.c.contribution == contribution_id))
    return blobs


def claim_texts(
    transaction: Transaction,
    contribution_id: str,
    marks: Sequence[Mark],
    now: int,
) -> list[First]:
    """Enter marks of a contribution's texts; earlier entries stand.

    Returns:
        The entries that belong to another contribution, which was first.
    """
    entry = {"contribution": contribution_id, "created_at": now}
    rows = [values_of(mark) | entry for mark in marks]
    insert_new(transaction, duplicate_index, rows)
    owners = first_of(transaction, [mark.keyed_digest for mark in marks])
    return [owner for owner in owners if owner.contribution != contribution_id]


def first_of(transaction: Transaction, keyed_digests: Sequence[Digest]) -> list[First]:
    """Who was first with each of these texts that is known at all."""
    index, owner = duplicate_index, contributions
    joined = select(index.c.keyed_digest, index.c.contribution, owner.c.contributor).join(
        owner, owner.c.id == index.c.contribution
    )
    found: list[First] = []
    for start in range(0, len(keyed_digests), _LOOKED_UP_AT_ONCE):
        wanted = keyed_digests[start : start + _LOOKED_UP_AT_ONCE]
        found += every(transaction, joined.where(index.c.keyed_digest.in_(wanted)), First)
    return found
