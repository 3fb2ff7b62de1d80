"""Copies of a release for parties and auditors, and the log of who opened its attribution state."""

from collections.abc import Iterator
from pathlib import Path

from openledger.core.encoding import decode, encode
from openledger.core.errors import NotFoundError
from openledger.core.ids import parse_release_name
from openledger.core.signing import sign_typed
from openledger.operations.models import (
    EXPORT,
    OPENINGS,
    ExportView,
    NewExport,
    OpeningList,
    OpeningView,
    WhichRelease,
)
from openledger.storage.records.data import accounts, datanets
from openledger.storage.records.model import openings, releases, runs
from openledger.storage.records.model.openings import Purpose
from openledger.storage.records.model.releases import Release
from openledger.storage.records.model.runs import Run
from openledger.web.operations.epochs import release_on_chain
from openledger.web.operations.implementation import Implementation
from openledger.wiring.platform import Platform


def export(platform: Platform, wanted: NewExport) -> ExportView:
    """Write all of a release but its base model into a folder, signed by the gateway."""
    from openledger.flows.money.verify.export import check_new, write_export

    folder = Path(wanted.folder)
    check_new(folder)  # before anything secret is opened for it
    release = _release(platform, wanted.name)
    with platform.database.transaction() as transaction:
        run = runs.get(transaction, release.run)
    if release.number is None:
        raise NotFoundError(f"{release.full_name} is still being published; try again in a moment")
    domain = platform.acts.contracts.domain("Escrow")
    body = write_export(
        folder,
        release.full_name,
        release_on_chain(platform, release.number),
        dict(_files(platform, release, run, wanted)),
        lambda head: sign_typed(domain, head, platform.gateway.private_key),
    )
    return ExportView(
        name=release.full_name,
        folder=wanted.folder,
        files=len(body.files),
        size_bytes=sum(one.size_bytes for one in body.files),
        base=release.base,
    )


def list_openings(platform: Platform, which: WhichRelease) -> OpeningList:
    """Who opened the attribution state of a release, why and when."""
    release = _release(platform, which.name)
    with platform.database.read() as transaction:
        names = {one.address: one.display_name for one in accounts.list_all(transaction)}
        found = openings.of_run(transaction, release.run)
    return OpeningList(
        release.full_name,
        tuple(
            OpeningView(
                opened_at=one.opened_at,
                who=names.get(one.account, ""),
                account=one.account,
                purpose=one.purpose.value,
                subject=one.subject,
            )
            for one in found
        ),
    )


def _files(
    platform: Platform, release: Release, run: Run, wanted: NewExport
) -> Iterator[tuple[str, bytes]]:
    from openledger.flows.money.verify import export as form
    from openledger.lm import checkpoint

    models = platform.models
    # Opened by the log's door, which checks every digest; then copied as it was decrypted.
    state = models.open_state(release, Purpose.EXPORT, platform.gateway.account, wanted.folder)
    for digest, folder in form.adapter_folders(state.manifest, release.adapter).items():
        for name in (checkpoint.CONFIG, checkpoint.WEIGHTS):
            yield f"{folder}/{name}", (platform.home.adapter(digest) / name).read_bytes()
    for path in sorted(models.state_folder(release).iterdir()):
        yield f"{form.ATTRIBUTION}/{path.name}", models.sealed.read(path)
    yield form.PLAN, run.recipe
    yield form.MANIFEST, (platform.home.run(run.op) / "manifest.json").read_bytes()
    if wanted.has_texts:
        yield form.TEXTS, _texts(platform, run)


def _texts(platform: Platform, run: Run) -> bytes:
    """The texts of the ordered training manifest; refused when one was withdrawn since."""
    from openledger.flows.model.train.plan import Plan, as_begun, gather
    from openledger.flows.money.verify.export import Texts

    plan = decode(run.recipe, Plan)
    with platform.database.transaction() as transaction:
        wanted = tuple(datanets.get(transaction, one) for one in plan.datanets)
    material = gather(platform.models.workshop, wanted)
    begun = as_begun(platform.home.run(run.op), material, run.manifest_root)
    return encode(Texts(begun.examples))


def _release(platform: Platform, name: str) -> Release:
    with platform.database.read() as transaction:
        return releases.by_name(transaction, parse_release_name(name))


IMPLEMENTED = (
    Implementation(EXPORT, export),
    Implementation(OPENINGS, list_openings),
)
