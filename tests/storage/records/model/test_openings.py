from openledger.storage.database import Database
from openledger.storage.records.model import openings, runs
from openledger.storage.records.model.openings import Opening, Purpose
from openledger.storage.records.model.runs import NewRun
from tests.storage.rows import PAYER, digest_of


def test_every_opening_is_kept_in_order_also_the_same_twice(database: Database) -> None:
    new = NewRun(digest_of(1), PAYER, "tunes", b"recipe", b"versions", digest_of(2), 40)
    with database.transaction() as transaction:
        run, other = (
            runs.create(transaction, one, 1).id
            for one in (new, NewRun(digest_of(3), PAYER, "b", b"r", b"v", digest_of(2), 40))
        )
        later = Opening(run, PAYER, Purpose.EXPORT, "for an auditor", 9)
        first = Opening(run, PAYER, Purpose.SCORING, "", 5)
        for one in (later, first, first, Opening(other, PAYER, Purpose.SCORING, "", 6)):
            openings.note(transaction, one)

    with database.read() as transaction:
        assert openings.of_run(transaction, run) == [first, first, later]
