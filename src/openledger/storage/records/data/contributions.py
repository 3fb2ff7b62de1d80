"""Contributions, from the digest of their raw bytes to approval or withdrawal.

A contribution is registered by the digest of its raw bytes, before anything else happens to it,
so that starting over finds the same row and salt.
"""

from enum import StrEnum

import msgspec
from sqlalchemy import select

from openledger.core.errors import ConflictError
from openledger.core.types import Account, Digest
from openledger.storage.database import Transaction
from openledger.storage.records.rows import every, first, held, insert_new, one, row_id, values_of
from openledger.storage.tables import contributions


class ContributionState(StrEnum):
    """How far a contribution has come; the last two are final, but for `reopen`."""

    PENDING = "pending"
    COMMITTED = "committed"
    REVEALED = "revealed"
    APPROVED = "approved"
    REJECTED = "rejected"
    WITHDRAWN = "withdrawn"


_NEXT = {
    ContributionState.PENDING: {
        ContributionState.COMMITTED,
        ContributionState.REJECTED,  # refused before it reached the chain, as a duplicate is
    },
    ContributionState.COMMITTED: {
        ContributionState.REVEALED,
        ContributionState.REJECTED,  # a duplicate of what came between commit and reveal
        ContributionState.WITHDRAWN,
    },
    ContributionState.REVEALED: {
        ContributionState.APPROVED,
        ContributionState.REJECTED,
        ContributionState.WITHDRAWN,
    },
    ContributionState.APPROVED: {ContributionState.WITHDRAWN},
    ContributionState.REJECTED: set[ContributionState](),
    ContributionState.WITHDRAWN: set[ContributionState](),
}


_WAY = (
    ContributionState.PENDING,
    ContributionState.COMMITTED,
    ContributionState.REVEALED,
    ContributionState.APPROVED,
)


class NewContribution(msgspec.Struct, frozen=True):
    """A contribution to register; Datanet, contributor and raw digest name it."""

    datanet: str  # row id
    contributor: Account
    raw_digest: Digest
    source: str  # the file's name, for people
    claim: int  # 0 author, 1 licensee, 2 collector
    on_behalf: bool
    salt: bytes  # 32; a repeat keeps the first one


class Contribution(msgspec.Struct, frozen=True):
    """A stored contribution; `number` is its id on chain."""

    id: str
    datanet: str
    contributor: Account
    raw_digest: Digest
    source: str
    claim: int
    on_behalf: bool
    salt: bytes | None  # none once withdrawn
    state: ContributionState
    commitment: Digest | None
    number: int | None
    root: Digest | None
    size: int | None  # chunks under the root
    manifest: Digest | None  # of its canonical bytes, as on chain
    manifest_blob: Digest | None  # of its ciphertext
    reason: str | None
    sequence: int | None  # of the Datanet, after this contribution's last change
    created_at: int
    updated_at: int


class Anchor(msgspec.Struct, frozen=True):
    """What a reveal binds."""

    root: Digest
    size: int
    manifest: Digest
    manifest_blob: Digest


def register(transaction: Transaction, new: NewContribution, now: int) -> Contribution:
    """Store a contribution as pending, or find the one with this raw digest.

    The found one keeps its first salt, source and claim.
    """
    row = values_of(new) | {
        "id": row_id(now),
        "state": ContributionState.PENDING.value,
        "created_at": now,
        "updated_at": now,
    }
    insert_new(transaction, contributions, [row])
    query = select(contributions).where(
        contributions.c.datanet == new.datanet,
        contributions.c.contributor == new.contributor,
        contributions.c.raw_digest == new.raw_digest,
    )
    return one(transaction, query, Contribution, "contribution")


def get(transaction: Transaction, contribution_id: str) -> Contribution:
    """The contribution of this row id, held for this transaction.

    Raises:
        NotFoundError: none.
    """
    query = select(contributions).where(contributions.c.id == contribution_id)
    name = f"contribution {contribution_id}"
    return one(transaction, held(transaction, query), Contribution, name)


def by_number(transaction: Transaction, number: int) -> Contribution | None:
    """The contribution with this id on chain."""
    query = select(contributions).where(contributions.c.number == number)
    return first(transaction, query, Contribution)


def by_raw_digest(
    transaction: Transaction, datanet_id: str, raw_digest: Digest
) -> Contribution | None:
    """The first contribution of these raw bytes to a Datanet, whoever made it."""
    query = select(contributions).where(
        contributions.c.datanet == datanet_id, contributions.c.raw_digest == raw_digest
    )
    ordered = query.order_by(contributions.c.created_at, contributions.c.id)
    return first(transaction, ordered, Contribution)


def of_datanet(
    transaction: Transaction, datanet_id: str, state: ContributionState | None = None
) -> list[Contribution]:
    """A Datanet's contributions, in the order in which they came."""
    query = select(contributions).where(contributions.c.datanet == datanet_id)
    if state is not None:
        query = query.where(contributions.c.state == state.value)
    ordered = query.order_by(contributions.c.created_at, contributions.c.id)
    return every(transaction, ordered, Contribution)


def reopen(
    transaction: Transaction, contribution_id: str, new: NewContribution, now: int
) -> Contribution:
    """Take up again what was refused before its reveal, with the source and claim given now.

    A commit that stands on chain is kept: it binds the same raw bytes under the first salt.

    Raises:
        ConflictError: it is not rejected, or was revealed before.
    """
    found = get(transaction, contribution_id)
    if found.state is not ContributionState.REJECTED or found.root is not None:
        raise ConflictError(f"the contribution {contribution_id} cannot be tried again")
    is_on_chain = found.number is not None
    state = ContributionState.COMMITTED if is_on_chain else ContributionState.PENDING
    values: dict[str, object] = {
        "state": state.value,
        "reason": None,
        "source": new.source,
        "claim": new.claim,
        "on_behalf": new.on_behalf,
        "updated_at": now,
    }
    _change(transaction, contribution_id, values)
    return get(transaction, contribution_id)


def anchor(transaction: Transaction, contribution_id: str, what: Anchor, now: int) -> None:
    """Note what the reveal will bind; a repeat must give the same root and manifest.

    Raises:
        ConflictError: it was anchored to something else.
    """
    found = get(transaction, contribution_id)
    if found.root is not None and (found.root, found.manifest) != (what.root, what.manifest):
        raise ConflictError(f"the contribution {contribution_id} is anchored to another root")
    _change(transaction, contribution_id, values_of(what) | {"updated_at": now})


def commit(
    transaction: Transaction, contribution_id: str, commitment: Digest, number: int, now: int
) -> Contribution:
    """Pending becomes committed, with its commitment and id on chain.

    Raises:
        ConflictError: it was committed otherwise, or has been rejected.
    """
    found = get(transaction, contribution_id)
    if found.number is not None and (found.commitment, found.number) != (commitment, number):
        raise ConflictError(f"the contribution {contribution_id} is number {found.number} on chain")
    advance(transaction, contribution_id, ContributionState.COMMITTED, now)
    _change(transaction, contribution_id, {"commitment": commitment, "number": number})
    return get(transaction, contribution_id)


def advance(
    transaction: Transaction,
    contribution_id: str,
    state: ContributionState,
    now: int,
    *,
    sequence: int | None = None,
    reason: str | None = None,
) -> Contribution:
    """Move a contribution to its next state; one that has passed it already stays as it is.

    Withdrawal forgets salt and manifest. The vault's key and the chunks are for the caller.

    Raises:
        ConflictError: no way leads there from its present state.
    """
    found = get(transaction, contribution_id)
    if found.state is state or _has_passed(found.state, state):
        return found
    if state not in _NEXT[found.state]:
        raise ConflictError(
            f"the contribution {contribution_id} is {found.state.value}, it cannot become "
            f"{state.value}"
        )
    values: dict[str, object] = {"state": state.value, "updated_at": now}
    values |= {} if sequence is None else {"sequence": sequence}
    values |= {} if reason is None else {"reason": reason}
    if state is ContributionState.WITHDRAWN:
        values |= {"salt": None, "manifest_blob": None}
    _change(transaction, contribution_id, values)
    return get(transaction, contribution_id)


def _has_passed(found: ContributionState, state: ContributionState) -> bool:
    """Whether the way to `found` led through `state`."""
    return found in _WAY and state in _WAY and _WAY.index(state) <= _WAY.index(found)


def _change(transaction: Transaction, contribution_id: str, values: dict[str, object]) -> None:
    change = contributions.update().where(contributions.c.id == contribution_id)
    transaction.connection.execute(change.values(values))
