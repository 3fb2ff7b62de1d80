import msgspec
import pytest

from openledger.core.errors import ConflictError
from openledger.storage.database import Database
from openledger.storage.records.data import texts
from openledger.storage.records.data.texts import ChunkRow, DocumentRow, First, Mark
from tests.storage.records.data.seeds import contribute
from tests.storage.rows import OTHER, PAYER, digest_of


def _document(contribution: str) -> DocumentRow:
    return DocumentRow(contribution, 0, "The Kesh", "kesh", "CC0-1.0", "James Aird")


def _chunks(contribution: str) -> list[ChunkRow]:
    return [
        ChunkRow(contribution, position, 0, digest_of(position), 100, digest_of(50 + position))
        for position in range(3)
    ]


def test_texts_are_stored_once_and_in_order(database: Database) -> None:
    with database.transaction() as transaction:
        made = contribute(transaction)
        rows = _chunks(made.id)
        texts.store(transaction, [_document(made.id)], rows)
        sealed_again = [msgspec.structs.replace(row, blob=digest_of(99)) for row in rows]
        texts.store(transaction, [_document(made.id)], sealed_again)

        assert texts.documents_of(transaction, made.id) == [_document(made.id)]
        assert list(texts.chunks_of(transaction, made.id)) == rows
        assert texts.chunk_by_digest(transaction, digest_of(2)) == rows[2]
        assert texts.chunk_by_digest(transaction, digest_of(7)) is None
        with pytest.raises(ConflictError, match="other chunks"):
            texts.store(transaction, [], rows[:2])


def test_the_first_owner_of_a_text_stays_its_owner(database: Database) -> None:
    with database.transaction() as transaction:
        first = contribute(transaction, raw=1)
        copy = contribute(transaction, raw=2, contributor=OTHER)
        marks = [Mark(digest_of(number), 0) for number in range(3)]

        assert texts.claim_texts(transaction, first.id, marks[:2], 5) == []
        assert texts.claim_texts(transaction, first.id, marks[:2], 6) == []
        known = texts.claim_texts(transaction, copy.id, marks, 7)
        assert {owner.keyed_digest for owner in known} == {digest_of(0), digest_of(1)}
        assert {owner.contributor for owner in known} == {PAYER}
        assert texts.first_of(transaction, [digest_of(2)]) == [First(digest_of(2), copy.id, OTHER)]
        assert texts.first_of(transaction, [digest_of(9)]) == []


def test_a_withdrawn_text_stays_known(database: Database) -> None:
    with database.transaction() as transaction:
        made = contribute(transaction)
        rows = _chunks(made.id)
        texts.store(transaction, [_document(made.id)], rows)
        texts.claim_texts(transaction, made.id, [Mark(digest_of(1), 0)], 5)

        assert texts.forget(transaction, made.id) == [row.blob for row in rows]
        assert texts.forget(transaction, made.id) == []
        assert texts.documents_of(transaction, made.id) == []
        assert len(texts.first_of(transaction, [digest_of(1)])) == 1
