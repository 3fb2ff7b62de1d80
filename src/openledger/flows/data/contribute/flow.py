"""Bring files into a Datanet, for one contributor or for many at once.

The order of effects is the point. First the files are cleaned and compared in memory, so that a
bad one costs nothing. Then the hash of their raw bytes is committed on chain; only then are they
cleaned again, sealed and stored; only then does the reveal bind the result to the commit, and the
Datanet's owner approve it. The operator of the home sees the bytes from the start. Every step may
be repeated: the same files find the same rows, and what is missing is done.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from openledger.core.errors import ConflictError, OpenLedgerError
from openledger.datanet.contribution import files_digest
from openledger.flows.data.contribute import anchor, local
from openledger.flows.data.contribute.submission import Entry, Intake, Outcome, Submission
from openledger.storage.records.data import contributions
from openledger.storage.records.data.accounts import LocalAccount
from openledger.storage.records.data.contributions import ContributionState
from openledger.storage.records.data.datanets import Datanet

Refusals = dict[str, OpenLedgerError]  # by the contribution's row id


def contribute(
    intake: Intake, datanet: Datanet, owner: LocalAccount, submissions: Sequence[Submission]
) -> list[Outcome]:
    """Take every submission as far as it goes.

    One that is refused (unreadable, licence, duplicate) is rejected with its reason, and does not
    stop the others. Given again it is looked at again; what is in stays as it is.

    Raises:
        ChainUnavailableError: the chain is down; run it again, nothing is lost.
        StorageFullError: the disk is full; run it again when there is room.
    """
    entries = [_register(intake, datanet, one) for one in submissions]
    refusals: Refusals = {}
    wanted = [entry for entry in entries if _is_sound(intake, entry, refusals)]
    anchor.commit(intake, wanted)
    wanted = [local.reread(intake, entry) for entry in wanted]
    kept = [local.reread(intake, entry) for entry in wanted if _is_kept(intake, entry, refusals)]
    anchor.reveal(intake, kept)
    kept = [local.reread(intake, entry) for entry in kept]
    anchor.approve(intake, kept, owner)
    return [_outcome(local.reread(intake, entry), refusals) for entry in entries]


def _register(intake: Intake, datanet: Datanet, submission: Submission) -> Entry:
    new = contributions.NewContribution(
        datanet=datanet.id,
        contributor=submission.contributor.address,
        raw_digest=files_digest(submission.files),
        source=", ".join(file.name for file in submission.files),
        claim=submission.claim,
        on_behalf=submission.on_behalf,
        salt=intake.random(32),
    )
    with intake.database.transaction() as transaction:
        row = contributions.register(transaction, new, intake.clock())
        if row.state is ContributionState.REJECTED and row.root is None:
            # What was wrong may be mended by now, as a licence or what came before it.
            row = contributions.reopen(transaction, row.id, new, intake.clock())
    return Entry(datanet, row, submission)


def _is_sound(intake: Intake, entry: Entry, refusals: Refusals) -> bool:
    """Look at it before anything is committed, so that a bad file costs nothing."""
    if entry.row.state is not ContributionState.PENDING:
        return entry.row.state not in (ContributionState.REJECTED, ContributionState.WITHDRAWN)
    with _refusing(intake, entry, refusals):
        local.inspect(intake, entry)
    return entry.row.id not in refusals


def _is_kept(intake: Intake, entry: Entry, refusals: Refusals) -> bool:
    # The commit of one that is refused here stays unrevealed: it earns nothing and says nothing.
    with _refusing(intake, entry, refusals):
        local.keep(intake, entry)
    return entry.row.id not in refusals


@contextmanager
def _refusing(intake: Intake, entry: Entry, refusals: Refusals) -> Iterator[None]:
    try:
        yield
    except local.REFUSALS as error:
        local.refuse(intake, entry, str(error))
        refusals[entry.row.id] = error


def _outcome(entry: Entry, refusals: Refusals) -> Outcome:
    row = entry.row
    refusal = refusals.get(row.id)
    if refusal is None and row.state is not ContributionState.APPROVED:
        # The owner said no, or the contributor took it back.
        refusal = ConflictError(row.reason or f"this contribution is {row.state.value}")
    return Outcome(row, entry.submission.contributor, refusal)
