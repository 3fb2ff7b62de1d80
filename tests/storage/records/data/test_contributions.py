import itertools

import msgspec
import pytest

from openledger.core.errors import ConflictError, NotFoundError
from openledger.storage.database import Database
from openledger.storage.records.data import contributions
from openledger.storage.records.data.contributions import (
    Anchor,
    ContributionState,
    NewContribution,
)
from tests.storage.records.data.seeds import contribute
from tests.storage.rows import OTHER, PAYER, digest_of

ANCHOR = Anchor(digest_of(1), 3, digest_of(2), digest_of(3))


def test_raw_bytes_are_registered_once(database: Database) -> None:
    with database.transaction() as transaction:
        made = contribute(transaction, now=5)
        again = NewContribution(made.datanet, PAYER, made.raw_digest, "x", 0, False, b"else" * 8)

        assert contributions.register(transaction, again, 6) == made
        assert made.state is ContributionState.PENDING
        assert contributions.by_raw_digest(transaction, made.datanet, made.raw_digest) == made
        assert contributions.by_raw_digest(transaction, made.datanet, digest_of(9)) is None


def test_who_was_first_with_raw_bytes_is_known(database: Database) -> None:
    with database.transaction() as transaction:
        later = contribute(transaction, contributor=OTHER, now=6_000)
        first = contribute(transaction, now=5_000)

        found = contributions.by_raw_digest(transaction, first.datanet, first.raw_digest)
        assert found == first
        assert contributions.of_datanet(transaction, first.datanet) == [first, later]


def test_a_contribution_goes_from_commit_to_approval(database: Database) -> None:
    with database.transaction() as transaction:
        made = contribute(transaction)
        committed = contributions.commit(transaction, made.id, digest_of(8), 4, 10)
        contributions.anchor(transaction, made.id, ANCHOR, 11)
        revealed = contributions.advance(
            transaction, made.id, ContributionState.REVEALED, 12, sequence=1
        )
        approved = contributions.advance(
            transaction, made.id, ContributionState.APPROVED, 13, sequence=2
        )

        assert (committed.commitment, committed.number) == (digest_of(8), 4)
        assert (revealed.root, revealed.size) == (ANCHOR.root, 3)
        assert (approved.state, approved.sequence) == (ContributionState.APPROVED, 2)
        assert contributions.by_number(transaction, 4) == approved
        of_net = contributions.of_datanet
        assert of_net(transaction, made.datanet, ContributionState.APPROVED) == [approved]
        assert of_net(transaction, made.datanet, ContributionState.PENDING) == []


def test_steps_may_be_repeated(database: Database) -> None:
    with database.transaction() as transaction:
        made = contribute(transaction)
        for _ in range(2):
            contributions.commit(transaction, made.id, digest_of(8), 4, 10)
            contributions.anchor(transaction, made.id, ANCHOR, 11)
            contributions.advance(transaction, made.id, ContributionState.REVEALED, 12)
            contributions.advance(transaction, made.id, ContributionState.APPROVED, 13)

        found = contributions.get(transaction, made.id)
        assert (found.state, found.updated_at) == (ContributionState.APPROVED, 11)


def test_a_second_commit_or_anchor_is_refused(database: Database) -> None:
    with database.transaction() as transaction:
        made = contribute(transaction)
        contributions.commit(transaction, made.id, digest_of(8), 4, 10)
        contributions.anchor(transaction, made.id, ANCHOR, 11)

        with pytest.raises(ConflictError, match="number 4"):
            contributions.commit(transaction, made.id, digest_of(8), 5, 10)
        other = msgspec.structs.replace(ANCHOR, root=digest_of(7))
        with pytest.raises(ConflictError, match="another root"):
            contributions.anchor(transaction, made.id, other, 12)


def test_a_rejection_says_why_and_leads_nowhere(database: Database) -> None:
    with database.transaction() as transaction:
        made = contribute(transaction)
        rejected = contributions.advance(
            transaction, made.id, ContributionState.REJECTED, 6, reason="duplicate"
        )

        assert rejected.reason == "duplicate"
        for state in (ContributionState.COMMITTED, ContributionState.APPROVED):
            with pytest.raises(ConflictError, match="rejected"):
                contributions.advance(transaction, made.id, state, 7)


def test_only_what_was_refused_before_its_reveal_is_tried_again(database: Database) -> None:
    with database.transaction() as transaction:
        made = contribute(transaction)
        again = NewContribution(made.datanet, PAYER, made.raw_digest, "x", 2, True, b"else" * 8)
        with pytest.raises(ConflictError, match="cannot be tried again"):
            contributions.reopen(transaction, made.id, again, 6)
        contributions.advance(
            transaction, made.id, ContributionState.REJECTED, 6, reason="no licence"
        )
        fresh = contributions.reopen(transaction, made.id, again, 7)
        contributions.commit(transaction, made.id, digest_of(8), 4, 10)
        contributions.advance(transaction, made.id, ContributionState.REJECTED, 11)
        bound = contributions.reopen(transaction, made.id, again, 12)
        contributions.anchor(transaction, made.id, ANCHOR, 13)
        contributions.advance(transaction, made.id, ContributionState.REJECTED, 14)

        assert (fresh.state, fresh.reason) == (ContributionState.PENDING, None)
        assert (fresh.source, fresh.claim, fresh.on_behalf) == ("x", 2, True)
        assert (fresh.id, fresh.salt) == (made.id, made.salt)
        assert (bound.state, bound.number) == (ContributionState.COMMITTED, 4)
        with pytest.raises(ConflictError, match="cannot be tried again"):
            contributions.reopen(transaction, made.id, again, 15)


def test_a_withdrawal_forgets_salt_and_manifest(database: Database) -> None:
    with database.transaction() as transaction:
        made = contribute(transaction)
        contributions.commit(transaction, made.id, digest_of(8), 4, 10)
        contributions.anchor(transaction, made.id, ANCHOR, 11)
        withdrawn = contributions.advance(transaction, made.id, ContributionState.WITHDRAWN, 12)

        assert (withdrawn.salt, withdrawn.manifest_blob) == (None, None)
        assert withdrawn.root == ANCHOR.root


def test_no_step_leads_back(sqlite: Database) -> None:
    order = list(ContributionState)
    for number, (first, second) in enumerate(itertools.permutations(order[:4], 2)):
        with sqlite.transaction() as transaction:
            made = contribute(transaction, raw=number)
            for state in order[1 : order.index(first) + 1]:
                contributions.advance(transaction, made.id, state, 6)
            if order.index(second) <= order.index(first):
                moved = contributions.advance(transaction, made.id, second, 7)
                assert moved.state is first
            elif order.index(second) == order.index(first) + 1:
                assert contributions.advance(transaction, made.id, second, 7).state is second
            else:
                with pytest.raises(ConflictError):
                    contributions.advance(transaction, made.id, second, 7)


def test_an_unknown_contribution_is_said_to_be_unknown(database: Database) -> None:
    with database.read() as transaction, pytest.raises(NotFoundError):
        contributions.get(transaction, "nothing")
    with database.read() as transaction:
        assert contributions.by_number(transaction, 1) is None
