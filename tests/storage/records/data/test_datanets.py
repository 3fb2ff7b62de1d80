import msgspec
import pytest

from openledger.core.errors import ConflictError, NotFoundError
from openledger.storage.database import Database
from openledger.storage.records.data import datanets
from tests.storage.records.data.seeds import TUNES
from tests.storage.rows import GATEWAY, OTHER


def test_a_datanet_is_created_once(database: Database) -> None:
    with database.transaction() as transaction:
        made = datanets.create(transaction, TUNES, 1)

        assert datanets.create(transaction, TUNES, 2) == made
        assert datanets.get(transaction, made.id) == made
        assert datanets.find(transaction, GATEWAY, "tunes") == made
        assert datanets.list_all(transaction) == [made]
        with pytest.raises(ConflictError, match="another Datanet"):
            datanets.create(transaction, msgspec.structs.replace(TUNES, rules=b"else"), 3)


def test_owners_may_use_one_slug_and_the_oldest_goes_first(database: Database) -> None:
    with database.transaction() as transaction:
        datanets.create(transaction, msgspec.structs.replace(TUNES, owner=OTHER), 2)
        mine = datanets.create(transaction, TUNES, 1)

        assert datanets.by_slug(transaction, "tunes") == mine


def test_an_unknown_datanet_brings_the_nearest_slugs(database: Database) -> None:
    with database.transaction() as transaction:
        datanets.create(transaction, TUNES, 1)

        with pytest.raises(NotFoundError, match="did you mean tunes"):
            datanets.by_slug(transaction, "tune")
        with pytest.raises(NotFoundError):
            datanets.get(transaction, "nothing")


def test_the_number_on_chain_is_final(database: Database) -> None:
    with database.transaction() as transaction:
        made = datanets.create(transaction, TUNES, 1)
        datanets.set_number(transaction, made.id, 7)
        datanets.set_number(transaction, made.id, 7)

        assert datanets.get(transaction, made.id).number == 7
        with pytest.raises(ConflictError, match="number 7"):
            datanets.set_number(transaction, made.id, 8)


def test_a_number_belongs_to_one_datanet(sqlite: Database) -> None:
    with sqlite.transaction() as transaction:
        first = datanets.create(transaction, TUNES, 1)
        other = datanets.create(transaction, msgspec.structs.replace(TUNES, slug="man"), 1)
        datanets.set_number(transaction, first.id, 7)
    with pytest.raises(ConflictError), sqlite.transaction() as transaction:
        datanets.set_number(transaction, other.id, 7)
