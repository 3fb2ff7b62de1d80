"""Releases: published versions of adapters. A version never changes; it may be deprecated."""

import msgspec
from sqlalchemy import func, select

from openledger.core.errors import ConflictError, ModelNotFoundError
from openledger.core.ids import ReleaseName, did_you_mean
from openledger.core.types import Account, Digest
from openledger.storage.database import Transaction
from openledger.storage.records.rows import (
    every,
    first,
    insert_new,
    insert_once,
    one,
    row_id,
    values_of,
)
from openledger.storage.tables import release_terms, releases


class NewRelease(msgspec.Struct, frozen=True):
    """A release to publish: one per run."""

    owner: str
    name: str
    builder: Account
    run: str  # row id
    base: Digest
    adapter: Digest
    training_root: Digest
    training_size: int
    card: bytes  # JSON, for people
    folder: str  # of its attribution index, relative to the home
    terms: bytes  # canonical bytes of the first terms
    parents: bytes | None = None  # canonical bytes; of a merge, who divides its parent part


class Release(msgspec.Struct, frozen=True):
    """A stored release; `number` is its id on chain, none while it is being published."""

    id: str
    owner: str
    name: str
    version: int
    builder: Account
    run: str
    base: Digest
    adapter: Digest
    training_root: Digest
    training_size: int
    card: bytes
    folder: str
    terms_version: int  # in force
    number: int | None
    created_at: int
    deprecated_at: int | None
    parents: bytes | None  # canonical bytes; of a merge, who divides its parent part

    @property
    def full_name(self) -> str:
        """owner/name@version."""
        return str(ReleaseName(self.owner, self.name, self.version))


class TermsRow(msgspec.Struct, frozen=True):
    """One version of a release's terms; old receipts go on naming theirs."""

    release: str  # row id
    version: int
    terms: bytes
    effective_at: int


_FIRST_TERMS = 1


def create(transaction: Transaction, new: NewRelease, now: int) -> Release:
    """Store the next version of owner/name, or find the one that this run has.

    Raises:
        ConflictError: the run has a release with other content, or another builder has the name.
    """
    values = values_of(new)
    terms = values.pop("terms")
    found = by_run(transaction, new.run)
    if found is None:
        _require_name_of(transaction, new)
        row = values | {
            "id": row_id(now),
            "version": _next_version(transaction, new.owner, new.name),
            "terms_version": _FIRST_TERMS,
            "created_at": now,
        }
        insert_new(transaction, releases, [row])
        found = by_run(transaction, new.run)
    if found is None:
        raise ConflictError(f"{new.owner}/{new.name} was published at this moment; try again")
    if values_of(found) | values != values_of(found):
        raise ConflictError(f"the run {new.run} has the release {found.full_name} already")
    set_terms(transaction, TermsRow(found.id, _FIRST_TERMS, terms, now))
    return found


def publish(transaction: Transaction, release_id: str, number: int) -> Release:
    """Note the release's id on chain; from then on it is served.

    Raises:
        ConflictError: it has another one.
    """
    found = get(transaction, release_id)
    if found.number not in (None, number):
        raise ConflictError(f"{found.full_name} is number {found.number} on chain")
    _change(transaction, release_id, number=number)
    return get(transaction, release_id)


def deprecate(transaction: Transaction, release_id: str, now: int) -> Release:
    """Offer it no more, from now; the first time stands and old receipts stay valid."""
    if get(transaction, release_id).deprecated_at is None:
        _change(transaction, release_id, deprecated_at=now)
    return get(transaction, release_id)


def set_terms(transaction: Transaction, row: TermsRow) -> None:
    """Store a version of terms.

    Raises:
        ConflictError: this version says something else.
    """
    insert_once(transaction, release_terms, values_of(row), {"effective_at"})


def use_terms(transaction: Transaction, release_id: str, version: int) -> Release:
    """Put stored terms in force.

    Raises:
        NotFoundError: no such release or terms.
    """
    terms_of(transaction, release_id, version)
    _change(transaction, release_id, terms_version=version)
    return get(transaction, release_id)


def terms_of(transaction: Transaction, release_id: str, version: int) -> TermsRow:
    """One version of a release's terms.

    Raises:
        NotFoundError: none.
    """
    query = select(release_terms).where(
        release_terms.c.release == release_id, release_terms.c.version == version
    )
    return one(transaction, query, TermsRow, f"version {version} of the release's terms")


def get(transaction: Transaction, release_id: str) -> Release:
    """The release of this row id.

    Raises:
        NotFoundError: none.
    """
    query = select(releases).where(releases.c.id == release_id)
    return one(transaction, query, Release, f"release {release_id}")


def by_name(transaction: Transaction, name: ReleaseName) -> Release:
    """The release of this name; without a version, the newest published one not deprecated.

    Raises:
        ModelNotFoundError: none; the message holds the nearest names.
    """
    query = select(releases).where(releases.c.owner == name.owner, releases.c.name == name.name)
    if name.version is None:
        query = query.where(releases.c.number.is_not(None), releases.c.deprecated_at.is_(None))
    else:
        query = query.where(releases.c.version == name.version)
    found = first(transaction, query.order_by(releases.c.version.desc()), Release)
    if found is None:
        raise _not_found(transaction, name)
    return found


def versions(transaction: Transaction, name: ReleaseName) -> list[Release]:
    """All releases of this name by version, or the one that it names.

    Raises:
        ModelNotFoundError: none; the message holds the nearest names.
    """
    known = list_all(transaction)
    found = [one for one in known if (one.owner, one.name) == (name.owner, name.name)]
    if name.version is not None:
        found = [one for one in found if one.version == name.version]
    if not found:
        raise _not_found(transaction, name)
    return found


def by_run(transaction: Transaction, run_id: str) -> Release | None:
    """The release of a run."""
    return first(transaction, select(releases).where(releases.c.run == run_id), Release)


def by_number(transaction: Transaction, number: int) -> Release | None:
    """The release with this id on chain."""
    return first(transaction, select(releases).where(releases.c.number == number), Release)


def list_all(transaction: Transaction) -> list[Release]:
    """All releases by name and version, deprecated and unpublished ones too."""
    query = select(releases).order_by(releases.c.owner, releases.c.name, releases.c.version)
    return every(transaction, query, Release)


def list_served(transaction: Transaction) -> list[Release]:
    """Published releases that are not deprecated, by name and version."""
    served = [row for row in list_all(transaction) if row.number is not None]
    return [row for row in served if row.deprecated_at is None]


def _not_found(transaction: Transaction, name: ReleaseName) -> ModelNotFoundError:
    known = sorted({release.full_name for release in list_all(transaction)})
    near = did_you_mean(str(name), known)
    return ModelNotFoundError(f"there is no model {name}{near}", param="model")


def _require_name_of(transaction: Transaction, new: NewRelease) -> None:
    """A name belongs to the builder of its first release."""
    query = select(releases).where(releases.c.owner == new.owner, releases.c.name == new.name)
    held = first(transaction, query.order_by(releases.c.version), Release)
    if held is not None and held.builder != new.builder:
        raise ConflictError(
            f"{new.owner}/{new.name} is a model of {held.builder}; choose another name"
        )


def _next_version(transaction: Transaction, owner: str, name: str) -> int:
    query = select(func.max(releases.c.version)).where(
        releases.c.owner == owner, releases.c.name == name
    )
    return (transaction.connection.execute(query).scalar() or 0) + 1


def _change(transaction: Transaction, release_id: str, **values: object) -> None:
    change = releases.update().where(releases.c.id == release_id)
    transaction.connection.execute(change.values(**values))
