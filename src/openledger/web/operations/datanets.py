"""Datanets and what people bring into them."""

import msgspec

from openledger.core.encoding import decode
from openledger.core.errors import InvalidInputError, NotFoundError, VerificationError
from openledger.core.types import Account, Digest
from openledger.datanet.chunk import Chunk
from openledger.datanet.contribution import verify
from openledger.datanet.manifest import document_of, read_manifest
from openledger.datanet.rules import Rules
from openledger.flows.data.contribute.flow import contribute
from openledger.flows.data.contribute.submission import Outcome, Submission
from openledger.operations.datanets import (
    ADD,
    CREATE,
    IMPORT,
    LIST,
    SHOW,
    VERIFY,
    Addition,
    ContributionView,
    DatanetLine,
    DatanetList,
    DatanetView,
    Import,
    NewDatanet,
    Verified,
    WhichDatanet,
)
from openledger.operations.operation import Nothing
from openledger.storage.database import Transaction
from openledger.storage.records.data import accounts, contributions, datanets, texts
from openledger.storage.records.data.accounts import AccountKind, LocalAccount
from openledger.storage.records.data.contributions import Contribution, ContributionState
from openledger.web.operations.implementation import Implementation
from openledger.web.operations.wallets import find
from openledger.wiring.platform import Platform

CLAIMS = ("author", "licensee", "collector")


def create(platform: Platform, new: NewDatanet) -> DatanetView:
    """Found a Datanet, or find the same one."""
    rules = Rules(
        name=new.name,
        description=new.description,
        licences=new.licences,
        withdrawal=new.withdrawal,
        withdrawal_days=new.withdrawal_days,
        data_floor_bps=new.data_floor_bps,
    )
    owner = find(platform, new.owner)
    made = platform.create_datanet.run(owner, new.title or new.name, rules)
    return _view(platform, made)


def add(platform: Platform, addition: Addition) -> ContributionView:
    """Contribute files.

    Raises:
        InvalidInputError, NotAllowedError, DuplicateError: they were refused, for this reason.
        ConflictError: they were withdrawn or rejected before, or came from two at once.
    """
    if addition.claim not in CLAIMS:
        raise InvalidInputError(f"{addition.claim!r} is no claim: say {', '.join(CLAIMS)}")
    contributor = find(platform, addition.contributor)
    submission = Submission(
        contributor, addition.files, addition.licence, CLAIMS.index(addition.claim)
    )
    (outcome,) = _contribute(platform, addition.datanet, (submission,))
    if outcome.refusal is not None:
        raise outcome.refusal
    return _line(outcome.contribution, outcome.contributor)


def bring_in(platform: Platform, wanted: Import) -> DatanetView:
    """Contribute public text on behalf of its authors, each with an account of his own."""
    submissions = []
    for author in wanted.authors:
        label = f"behalf/{wanted.datanet}/{author.name}"
        account = platform.account(label, AccountKind.ON_BEHALF, author.name)
        submissions.append(
            Submission(account, (author.file,), claim=CLAIMS.index("collector"), on_behalf=True)
        )
    _contribute(platform, wanted.datanet, tuple(submissions))
    return show(platform, WhichDatanet(wanted.datanet))


def show(platform: Platform, which: WhichDatanet) -> DatanetView:
    """One Datanet."""
    with platform.database.read() as transaction:
        found = datanets.by_slug(transaction, which.name)
    return _view(platform, found)


def list_all(platform: Platform, _: Nothing) -> DatanetList:
    """All Datanets."""
    with platform.database.read() as transaction:
        found = datanets.list_all(transaction)
    return DatanetList(tuple(DatanetLine(one.slug, one.title, one.number) for one in found))


def check(platform: Platform, which: WhichDatanet) -> Verified:
    """Open every stored chunk and hold it against its manifest, and that against the chain."""
    with platform.database.read() as transaction:
        datanet = datanets.by_slug(transaction, which.name)
        approved = contributions.of_datanet(transaction, datanet.id, ContributionState.APPROVED)
        sizes = [_check_one(platform, transaction, row) for row in approved]
    return Verified(datanet.slug, len(approved), sum(row.size or 0 for row in approved), sum(sizes))


class _OnChain(msgspec.Struct, frozen=True):
    contributor: Account
    root: Digest
    size: int
    manifest: Digest


def _check_one(platform: Platform, transaction: Transaction, row: Contribution) -> int:
    manifest_blob = row.manifest_blob or Digest("")
    raw = platform.vault.get(transaction, row.id, texts.manifest_object(row.id), manifest_blob)
    manifest = read_manifest(raw)
    owners = document_of(manifest)
    chunks = []
    for chunk in texts.chunks_of(transaction, row.id):
        name = texts.chunk_object(row.id, chunk.position)
        text = platform.vault.get(transaction, row.id, name, chunk.blob).decode()
        chunks.append(Chunk(text, chunk.digest, owners[chunk.position]))
    verify(manifest, chunks)
    found = platform.acts.contracts.read(_OnChain, "Datanets", "contributions", row.number or 0)
    stored = _OnChain(row.contributor, manifest.root, manifest.size, row.manifest or Digest(""))
    if found != stored:
        raise VerificationError(f"contribution {row.number} differs from what stands on chain")
    return manifest.size_bytes


def _contribute(
    platform: Platform, name: str, submissions: tuple[Submission, ...]
) -> list[Outcome]:
    with platform.database.read() as transaction:
        datanet = datanets.by_slug(transaction, name)
        owner = accounts.by_address(transaction, datanet.owner)
    if owner is None:
        raise NotFoundError(f"the owner of {name} is not an account of this home")
    return contribute(platform.intake, datanet, owner, submissions)


def _view(platform: Platform, datanet: datanets.Datanet) -> DatanetView:
    with platform.database.read() as transaction:
        rows = contributions.of_datanet(transaction, datanet.id)
        known = {one.address: one for one in accounts.list_all(transaction)}
    version = platform.acts.contracts.call("Datanets", "version_of", datanet.number or 0)
    assert isinstance(version, tuple)
    return DatanetView(
        name=datanet.slug,
        title=datanet.title,
        owner=datanet.owner,
        number=datanet.number,
        licences=decode(datanet.rules, Rules).licences,
        data_floor_bps=datanet.data_floor_bps,
        sequence=int(str(version[0])),
        head=Digest(str(version[1])),
        contributions=tuple(_line(row, known[row.contributor]) for row in rows),
    )


def _line(row: Contribution, contributor: LocalAccount) -> ContributionView:
    return ContributionView(
        id=row.id,
        number=row.number,
        contributor=row.contributor,
        name=contributor.display_name,
        on_behalf=row.on_behalf,
        state=row.state.value,
        chunks=row.size or 0,
        reason=row.reason,
    )


IMPLEMENTED = (
    Implementation(CREATE, create),
    Implementation(ADD, add),
    Implementation(IMPORT, bring_in),
    Implementation(SHOW, show),
    Implementation(LIST, list_all),
    Implementation(VERIFY, check),
)
