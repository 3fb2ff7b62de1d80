import msgspec
import pytest

from openledger.core.errors import ConflictError, NotFoundError
from openledger.core.ids import ReleaseName
from openledger.storage.database import Database, Transaction
from openledger.storage.records.model import releases, runs
from openledger.storage.records.model.releases import NewRelease, Release, TermsRow
from openledger.storage.records.model.runs import NewRun
from tests.storage.rows import PAYER, digest_of


def _new(transaction: Transaction, number: int = 1, name: str = "tunes") -> NewRelease:
    new = NewRun(digest_of(number), PAYER, name, b"recipe", b"versions", digest_of(2), 40)
    run = runs.create(transaction, new, 1)
    return NewRelease(
        owner="anna",
        name=name,
        builder=PAYER,
        run=run.id,
        base=digest_of(3),
        adapter=digest_of(4),
        training_root=digest_of(2),
        training_size=40,
        card=b"{}",
        folder="releases/1",
        terms=b"terms 1",
    )


def _published(transaction: Transaction, number: int) -> Release:
    made = releases.create(transaction, _new(transaction, number), number)
    return releases.publish(transaction, made.id, number)


def test_a_run_has_one_release(database: Database) -> None:
    with database.transaction() as transaction:
        new = _new(transaction)
        made = releases.create(transaction, new, 1)

        assert releases.create(transaction, new, 2) == made
        assert (made.full_name, made.number, made.terms_version) == ("anna/tunes@1", None, 1)
        assert releases.terms_of(transaction, made.id, 1).terms == b"terms 1"
        with pytest.raises(ConflictError, match="anna/tunes@1"):
            releases.create(transaction, msgspec.structs.replace(new, adapter=digest_of(8)), 3)
        with pytest.raises(ConflictError, match="another terms"):
            releases.create(transaction, msgspec.structs.replace(new, terms=b"else"), 3)


def test_versions_count_up_and_the_newest_is_served(database: Database) -> None:
    with database.transaction() as transaction:
        first, second = _published(transaction, 1), _published(transaction, 2)
        unpublished = releases.create(transaction, _new(transaction, 3), 3)

        by_name = releases.by_name
        assert by_name(transaction, ReleaseName("anna", "tunes", None)) == second
        assert by_name(transaction, ReleaseName("anna", "tunes", 1)) == first
        assert by_name(transaction, ReleaseName("anna", "tunes", 3)) == unpublished
        assert releases.list_served(transaction) == [first, second]
        assert releases.list_all(transaction) == [first, second, unpublished]
        assert releases.by_number(transaction, 2) == second
        assert releases.by_number(transaction, 9) is None


def test_a_deprecated_release_is_found_by_version_only(database: Database) -> None:
    with database.transaction() as transaction:
        only = _published(transaction, 1)
        gone = releases.deprecate(transaction, only.id, 50)

        assert releases.deprecate(transaction, only.id, 60) == gone
        assert gone.deprecated_at == 50
        assert releases.by_name(transaction, ReleaseName("anna", "tunes", 1)) == gone
        assert releases.list_served(transaction) == []
        with pytest.raises(NotFoundError, match="did you mean anna/tunes@1"):
            releases.by_name(transaction, ReleaseName("anna", "tunes", None))


def test_versions_are_found_whatever_became_of_them(database: Database) -> None:
    with database.transaction() as transaction:
        first, second = _published(transaction, 1), _published(transaction, 2)
        gone = releases.deprecate(transaction, first.id, 50)
        versions = releases.versions

        assert versions(transaction, ReleaseName("anna", "tunes", None)) == [gone, second]
        assert versions(transaction, ReleaseName("anna", "tunes", 1)) == [gone]
        with pytest.raises(NotFoundError, match="did you mean anna/tunes@"):
            versions(transaction, ReleaseName("anna", "tunes", 3))


def test_the_number_on_chain_is_final(database: Database) -> None:
    with database.transaction() as transaction:
        made = _published(transaction, 1)

        assert releases.publish(transaction, made.id, 1) == made
        with pytest.raises(ConflictError, match="number 1"):
            releases.publish(transaction, made.id, 2)


def test_old_terms_stay(database: Database) -> None:
    with database.transaction() as transaction:
        made = _published(transaction, 1)
        releases.set_terms(transaction, TermsRow(made.id, 2, b"terms 2", 70))
        used = releases.use_terms(transaction, made.id, 2)

        assert used.terms_version == 2
        assert releases.terms_of(transaction, made.id, 1).terms == b"terms 1"
        with pytest.raises(NotFoundError, match="version 3"):
            releases.use_terms(transaction, made.id, 3)


def test_an_unknown_release_is_said_to_be_unknown(database: Database) -> None:
    with database.read() as transaction, pytest.raises(NotFoundError):
        releases.get(transaction, "nothing")
