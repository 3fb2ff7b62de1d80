"""Settling epochs, and showing them."""

import msgspec
import structlog

from openledger.core.errors import NotFoundError, OpenLedgerError
from openledger.core.identity import Identity
from openledger.core.types import Account, Digest
from openledger.flows.money.verify.anchors import Anchors, ReleaseAnchor
from openledger.operations.epochs import IDENTITY, SETTLE, SHOW, EpochView, Payout, WhichEpoch
from openledger.operations.operation import Nothing
from openledger.storage.records.data import accounts
from openledger.storage.records.model import releases
from openledger.storage.records.money import balances, calls
from openledger.storage.records.money import epochs as rows
from openledger.web.operations.implementation import Implementation
from openledger.wiring.platform import Platform

log = structlog.get_logger()


def settle(platform: Platform, _: Nothing) -> EpochView:
    """Finish the open epoch, or close the next one and finish it."""
    epoch = platform.settle.run()
    with platform.database.read() as transaction:
        payers = {
            pair.call.payer
            for pair in calls.pairs(transaction, epoch.gateway, epoch.first, epoch.size)
        }
    for payer in sorted(payers):
        platform.fund.refresh(payer)
    return _view(platform, epoch)


def show(platform: Platform, which: WhichEpoch) -> EpochView:
    """One epoch."""
    gateway = platform.gateway.account
    with platform.database.read() as transaction:
        if which.number is None:
            epoch = rows.latest(transaction, gateway)
            if epoch is None:
                raise NotFoundError("no epoch is settled yet; make a call, then `epoch settle`")
        else:
            epoch = rows.get(transaction, gateway, which.number)
    return _view(platform, epoch)


def identity(platform: Platform, _: Nothing) -> Identity:
    """The money identity, from chain and database apart; then the books note what is new on chain.

    Compared is what stood in the books before: a note of a balance that is wrong is told, then
    written anew.
    """
    found = platform.check_identity.run()
    try:
        _renew(platform)
    except OpenLedgerError as error:
        # What was found must be told all the same; the notes are renewed at the next call as well.
        log.warning("notes not renewed", why=str(error))
    return found


def _renew(platform: Platform) -> None:
    with platform.database.read() as transaction:
        payers = balances.payers(transaction, platform.gateway.account)
    for payer in payers:
        platform.fund.refresh(payer)
    platform.claim.catch_up()


def _view(platform: Platform, epoch: rows.Epoch) -> EpochView:
    with platform.database.read() as transaction:
        listed = list(rows.payouts_of(transaction, epoch.gateway, epoch.number))
        names = {one.address: one.display_name for one in accounts.list_all(transaction)}
    commons = platform.acts.contracts.deployment.payouts
    names[commons] = "commons"
    return EpochView(
        number=epoch.number,
        state=epoch.state.value,
        first=epoch.first,
        size=epoch.size,
        root=epoch.root,
        drawn=epoch.drawn,
        promised=epoch.promised,
        payouts=tuple(
            Payout(names.get(row.account, row.account), row.account, row.cumulative)
            for row in listed
        ),
        anchors=anchors(platform, epoch),
    )


class _Release(msgspec.Struct, frozen=True):
    owner: Account
    run: int
    base: Digest
    adapter: Digest
    training_root: Digest
    training_size: int


class _Run(msgspec.Struct, frozen=True):
    recipe: Digest
    manifest_root: Digest
    manifest_size: int
    method: int
    seed: Digest


class _OnChain(msgspec.Struct, frozen=True):
    first: int
    size: int
    root: Digest


def anchors(platform: Platform, epoch: rows.Epoch | None) -> Anchors:
    """What a checker needs to know, read from the contracts and not from our books."""
    contracts = platform.acts.contracts
    plain = Anchors(
        chain_id=contracts.client.chain_id,
        escrow=contracts.deployment.escrow,
        gateway=platform.gateway.account,
        payouts=contracts.deployment.payouts,
    )
    plain = msgspec.structs.replace(plain, releases=releases_on_chain(platform))
    if epoch is None or epoch.state is rows.EpochState.CLOSED:
        return plain
    found = contracts.read(_OnChain, "Escrow", "epochs", epoch.gateway, epoch.number)
    return msgspec.structs.replace(
        plain, epoch_root=found.root, epoch_first=found.first, epoch_size=found.size
    )


def releases_on_chain(platform: Platform) -> tuple[ReleaseAnchor, ...]:
    """What the contract `Models` says of every release of this home."""
    with platform.database.read() as transaction:
        known = [one.number for one in releases.list_all(transaction)]
    return tuple(release_on_chain(platform, one) for one in known if one is not None)


def release_on_chain(platform: Platform, number: int) -> ReleaseAnchor:
    """What the contract `Models` says of one release and of its run."""
    contracts = platform.acts.contracts
    release = contracts.read(_Release, "Models", "releases", number)
    run = contracts.read(_Run, "Models", "runs", release.run)
    return ReleaseAnchor(
        number=number,
        base=release.base,
        adapter=release.adapter,
        training_root=release.training_root,
        training_size=release.training_size,
        builder=release.owner,
        **msgspec.structs.asdict(run),
    )


IMPLEMENTED = (
    Implementation(SETTLE, settle),
    Implementation(SHOW, show),
    Implementation(IDENTITY, identity),
)
