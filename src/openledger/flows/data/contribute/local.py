"""The part of contributing that needs no chain: clean, compare, seal, store."""

import msgspec

from openledger.core.encoding import decode
from openledger.core.errors import ConflictError, InvalidInputError, NotAllowedError
from openledger.core.types import Digest
from openledger.datanet.contribution import Prepared, Secrets, prepare
from openledger.datanet.duplicates import First
from openledger.datanet.manifest import manifest_digest, write_manifest
from openledger.datanet.rules import Rules
from openledger.flows.data.contribute.submission import Entry, Intake
from openledger.storage.database import Transaction
from openledger.storage.records.data import accounts, contributions, texts

REFUSALS = (InvalidInputError, NotAllowedError, ConflictError)


def inspect(intake: Intake, entry: Entry) -> Prepared:
    """Clean and compare, without storing anything.

    Raises:
        InvalidInputError: a file cannot be read, or nothing is left of it.
        NotAllowedError: its licence is not allowed here.
        DuplicateError: all of it was contributed before; the message names the first.
    """
    return prepare(
        entry.submission.files,
        entry.submission.licence,
        decode(entry.datanet.rules, Rules),
        Secrets(entry.salt, intake.network_key),
        lambda mark: _first(intake, mark, entry.row.id),
        intake.config,
    )


def keep(intake: Intake, entry: Entry) -> None:
    """Seal and store what `inspect` finds; a contribution that is stored already stays as it is.

    Raises:
        InvalidInputError, NotAllowedError, DuplicateError: see `inspect`.
        StorageFullError: the disk is full; nothing of it is stored.
    """
    if entry.row.root is not None:
        return
    prepared = inspect(intake, entry)
    now = intake.clock()
    with intake.database.transaction() as transaction:
        intake.vault.add_key(transaction, entry.row.id, now)
        marks = [
            texts.Mark(mark, chunk.document)
            for mark, chunk in zip(prepared.fingerprints, prepared.chunks, strict=True)
        ]
        if texts.claim_texts(transaction, entry.row.id, marks, now):
            raise ConflictError("somebody else contributed the same text a moment ago; try again")
        texts.store(
            transaction, _documents(entry, prepared), _chunks(intake, transaction, entry, prepared)
        )
        contributions.anchor(
            transaction, entry.row.id, _anchor(intake, transaction, entry, prepared), now
        )


def refuse(intake: Intake, entry: Entry, reason: str) -> None:
    """Note why a contribution is not taken."""
    rejected = contributions.ContributionState.REJECTED
    with intake.database.transaction() as transaction:
        contributions.advance(transaction, entry.row.id, rejected, intake.clock(), reason=reason)


def _first(intake: Intake, mark: Digest, own: str) -> First | None:
    with intake.database.read() as transaction:
        for owner in texts.first_of(transaction, [mark]):
            if owner.contribution != own:
                account = accounts.by_address(transaction, owner.contributor)
                name = owner.contributor if account is None else account.display_name
                return First(name, owner.contribution)
    return None


def _documents(entry: Entry, prepared: Prepared) -> list[texts.DocumentRow]:
    return [
        texts.DocumentRow(
            contribution=entry.row.id,
            position=position,
            title=document.title,
            key=document.key,
            licence=document.licence,
            contributor_name=document.contributor or entry.submission.contributor.display_name,
        )
        for position, document in enumerate(prepared.manifest.documents)
    ]


def _chunks(
    intake: Intake, transaction: Transaction, entry: Entry, prepared: Prepared
) -> list[texts.ChunkRow]:
    rows = []
    for position, chunk in enumerate(prepared.chunks):
        text = chunk.text.encode()
        name = texts.chunk_object(entry.row.id, position)
        blob = intake.vault.put(transaction, entry.row.id, name, text)
        rows.append(
            texts.ChunkRow(entry.row.id, position, chunk.document, chunk.digest, len(text), blob)
        )
    return rows


def _anchor(
    intake: Intake, transaction: Transaction, entry: Entry, prepared: Prepared
) -> contributions.Anchor:
    manifest = prepared.manifest
    name = texts.manifest_object(entry.row.id)
    blob = intake.vault.put(transaction, entry.row.id, name, write_manifest(manifest))
    return contributions.Anchor(manifest.root, manifest.size, manifest_digest(manifest), blob)


def reread(intake: Intake, entry: Entry) -> Entry:
    """The entry with its row as it stands now."""
    with intake.database.read() as transaction:
        row = contributions.get(transaction, entry.row.id)
    return msgspec.structs.replace(entry, row=row)
