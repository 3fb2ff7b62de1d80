"""The part of contributing that happens on chain: commit, reveal, approve."""

from collections.abc import Sequence

from eth_abi.abi import encode as abi_encode
from eth_utils.crypto import keccak

from openledger.chain.contracts import Write
from openledger.chain.outbox.rows import op_id
from openledger.core.types import Digest, as_bytes
from openledger.datanet.contribution import commitment
from openledger.flows.data.contribute.submission import Entry, Intake
from openledger.storage.records.data import contributions
from openledger.storage.records.data.accounts import LocalAccount
from openledger.storage.records.data.contributions import ContributionState

_COMMIT_TAG = keccak(b"OL-COMMIT-1")


def commit(intake: Intake, entries: Sequence[Entry]) -> None:
    """Anchor that these raw bytes were here now, saying nothing about them."""
    pending = [one for one in entries if one.row.state is ContributionState.PENDING]
    bound = [_commitment(intake, entry) for entry in pending]
    _perform(
        intake,
        "commit",
        pending,
        [
            intake.acts.contracts.write(
                "Datanets",
                "commit",
                _number(entry.datanet.number),
                what,
                acting=entry.submission.contributor.label,
            )
            for entry, what in zip(pending, bound, strict=True)
        ],
    )
    for entry, what in zip(pending, bound, strict=True):
        number = intake.acts.contracts.read(
            int, "Datanets", "contribution_of", entry.row.contributor, what
        )
        with intake.database.transaction() as transaction:
            contributions.commit(transaction, entry.row.id, what, number, intake.clock())


def reveal(intake: Intake, entries: Sequence[Entry]) -> None:
    """Bind what was stored to what was committed."""
    committed = [one for one in entries if one.row.state is ContributionState.COMMITTED]
    _perform(intake, "reveal", committed, [_reveal(intake, entry) for entry in committed])
    _advance(intake, committed, ContributionState.REVEALED)


def approve(intake: Intake, entries: Sequence[Entry], owner: LocalAccount) -> None:
    """Let the Datanet's owner take these contributions in."""
    revealed = [one for one in entries if one.row.state is ContributionState.REVEALED]
    writes = [
        intake.acts.contracts.write(
            "Datanets", "approve", _number(entry.row.number), acting=owner.label
        )
        for entry in revealed
    ]
    _perform(intake, "approve", revealed, writes)
    _advance(intake, revealed, ContributionState.APPROVED)


def _commitment(intake: Intake, entry: Entry) -> Digest:
    """What `Datanets.reveal` recomputes from the salted digest."""
    deployment = intake.acts.contracts.deployment
    packed = abi_encode(
        ["bytes32", "uint256", "address", "uint256", "address", "bytes32"],
        [
            _COMMIT_TAG,
            deployment.chain_id,
            deployment.datanets,
            _number(entry.datanet.number),
            entry.row.contributor,
            as_bytes(_salted(entry)),
        ],
    )
    return Digest(keccak(packed).hex())


def _salted(entry: Entry) -> Digest:
    return commitment(entry.submission.files, entry.salt)


def _reveal(intake: Intake, entry: Entry) -> Write:
    row = entry.row
    assert row.root is not None, "what is revealed is stored"
    assert row.manifest is not None, "what is revealed is stored"
    return intake.acts.contracts.write(
        "Datanets",
        "reveal",
        _number(row.number),
        _salted(entry),
        row.root,
        _number(row.size),
        row.manifest,
        row.claim,
        row.on_behalf,
        acting=entry.submission.contributor.label,
    )


def _perform(intake: Intake, step: str, entries: Sequence[Entry], writes: Sequence[Write]) -> None:
    ops = [op_id(step, entry.row.id) for entry in entries]
    intake.acts.perform(dict(zip(ops, writes, strict=True)))


def _advance(intake: Intake, entries: Sequence[Entry], state: ContributionState) -> None:
    for entry in entries:
        with intake.database.transaction() as transaction:
            contributions.advance(transaction, entry.row.id, state, intake.clock())


def _number(value: int | None) -> int:
    assert value is not None, "it is on chain by now"
    return value
