"""Releases are merged by a run, and whoever built them is paid for what came of it."""

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner, Result

from openledger.attribution.state import AttributionState
from openledger.cli.main import app
from openledger.cli.receipt import _parents
from openledger.core.encoding import decode
from openledger.core.errors import (
    ConflictError,
    InvalidInputError,
    ModelNotFoundError,
    NotAllowedError,
    NotFoundError,
    OpenLedgerError,
    StoppedError,
    VerificationError,
)
from openledger.core.ids import parse_release_name
from openledger.core.types import Account, Digest, ReceiptId, Wei
from openledger.datanet.extract import Document
from openledger.datanet.rules import Rules
from openledger.datanet.sources import tiny
from openledger.datanet.sources.contributors import SourceContributor
from openledger.datanet.text.titles import title_key
from openledger.flows.data.contribute.flow import contribute
from openledger.flows.data.contribute.submission import Submission
from openledger.flows.model.train import flow
from openledger.flows.model.train.merge import MERGING, _texts
from openledger.flows.model.train.plan import Material, MergePlan, Plan, Step, gather
from openledger.flows.money.verify.anchors import Anchors
from openledger.flows.money.verify.bundle import Bundle, FullBundle, read_bundle
from openledger.flows.money.verify.export import Export, open_export
from openledger.flows.money.verify.full import verify_full
from openledger.flows.money.verify.public import _check_anchors, verify_bundle
from openledger.flows.money.verify.recompute import (
    _check_parentage,
    _check_planned,
    exported_state,
    recompute,
    remerge,
)
from openledger.operations.epochs import WhichEpoch
from openledger.operations.models import (
    NewExport,
    NewMerge,
    NewRelease,
    NewRun,
    RunView,
    WhichRelease,
    WhichRun,
    WhichUsage,
)
from openledger.operations.receipts import ShowReceipt
from openledger.operations.wallets import Name
from openledger.settlement.parts import PARENT, Parent
from openledger.settlement.price import MERGED_POLICY, Price, SplitPolicy
from openledger.settlement.shares import ADDED_TOLERANCE_MICRONATS, MemberScores, combine
from openledger.storage.records.data import accounts, datanets
from openledger.storage.records.model import releases, runs
from openledger.storage.records.model.openings import Purpose
from openledger.storage.records.model.releases import Release
from openledger.web.operations import epochs, exports, merging, models, receipts, usage, wallets
from openledger.web.work import worker_of
from openledger.wiring.platform import Platform
from tests import market as fair
from tests.audited import PROMPTS, Files, ask
from tests.training.songs import example

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

TIDES = Rules("tides", "When the water comes.", (tiny.LICENCE,))
PLACES = ("the old pier", "the north bar", "Gull Rock", "the ferry slip", "the salt marsh")
MIX = "mix:alice/tunes*0.6+bob/tunes*0.8"
NAME = "carol/both"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("merged")


@pytest.fixture(scope="module")
def merged(market_home: Path, root: Path) -> Iterator[Platform]:
    """Alice trained on tunes and Bob on tides; Carol merged their releases, and published."""
    with fair.open_copy(market_home, root / "home") as platform:
        for name in ("alice", "bob", "carol"):
            wallets.new(platform, Name(name))
        bring_tides(platform)
        for name, datanet in (("alice", fair.DATANET), ("bob", TIDES.name)):
            models.start(platform, NewRun((datanet,), name, name, name))
            worker_of(platform).drain()
            models.publish(platform, NewRelease(name, f"{name}/tunes"))
        assert merge(platform, "carol").state == "trained"
        models.publish(platform, NewRelease("carol", NAME))
        yield platform


def bring_tides(platform: Platform) -> None:
    """A second Datanet, whose texts have nothing in common with tunes."""
    owner = fair.operator(platform)
    platform.create_datanet.run(owner, "Tides", TIDES)
    with platform.database.read() as transaction:
        tides = datanets.by_slug(transaction, TIDES.name)
    documents = [
        Document(
            f"Tide at {place}",
            f"High water at {place} is {hour} hours after the moon has passed. "
            f"Low water at {place} is {hour + 6} hours after. Boats leave {place} at high water.",
            tiny.LICENCE,
            title_key(f"Tide at {place}"),
            f"tides#{hour}",
            "Harbour Master",
        )
        for hour, place in enumerate(PLACES, start=1)
    ]
    contributor = platform.account("behalf/tides", accounts.AccountKind.ON_BEHALF, "Harbour")
    brought = SourceContributor("Harbour Master", tuple(documents))
    submission = Submission(contributor, (brought.as_file(),), claim=2, on_behalf=True)
    assert all(
        one.refusal is None for one in contribute(platform.intake, tides, owner, [submission])
    )


def merge(platform: Platform, key: str, model: str = MIX, **choice: object) -> RunView:
    made = merging.merge(
        platform, msgspec.structs.replace(NewMerge(model, key, key, "carol"), **choice)
    )
    worker_of(platform).drain()
    return models.show_run(platform, WhichRun(made.id))


def release_of(platform: Platform, name: str) -> Release:
    with platform.database.read() as transaction:
        return releases.by_name(transaction, parse_release_name(name))


def address(platform: Platform, name: str) -> Account:
    return platform.account(f"user/{name}", accounts.AccountKind.USER, name).address


def opened(platform: Platform, name: str) -> AttributionState:
    release = release_of(platform, name)
    return platform.models.open_state(release, Purpose.SCORING, platform.gateway.account)


def test_a_merge_is_better_than_its_base_and_says_what_each_member_added(
    merged: Platform,
) -> None:
    run = models.show_run(merged, WhichRun("carol"))
    metrics = msgspec.json.decode(run.metrics, type=flow.Metrics)
    found = metrics.merge

    assert found is not None
    assert metrics.perplexity < 0.9 * metrics.base_perplexity
    assert [(one.name, one.weight_ppb) for one in found.members] == [
        ("alice/tunes@1", 600_000_000),
        ("bob/tunes@1", 800_000_000),
    ]
    assert all(one.added_micronats > 0 for one in found.members)
    assert (metrics.epochs, metrics.steps, metrics.training_tokens) == (0, 0, 0)
    assert found.unseen
    assert found.lost_ppm < 20  # of two of rank 8 rank 16 loses nothing


def test_a_merge_is_attributed_to_all_that_its_members_were_trained_on(merged: Platform) -> None:
    seen = {
        name: {one.digest for one in opened(merged, name).manifest.examples}
        for name in ("alice/tunes", "bob/tunes", NAME)
    }

    assert seen[NAME] == seen["alice/tunes"] | seen["bob/tunes"]
    assert min(map(len, seen.values())) > 3
    assert not seen["alice/tunes"] & seen["bob/tunes"]


def test_its_parents_stand_under_its_training_root_and_are_paid_by_answer(
    merged: Platform, root: Path
) -> None:
    commitment = opened(merged, NAME).manifest.commitment
    assert isinstance(commitment.parents, tuple)
    known = [(one.release, one.account) for one in commitment.parents]
    by_name = {name: address(merged, name) for name in ("alice", "bob")}
    assert known == [
        (release_of(merged, f"{name}/tunes").number, by_name[name]) for name in by_name
    ]

    bundle, export = settled(merged, root / "export")
    body, fee = bundle.receipt.statement.body, bundle.receipt.call.call.fee
    added = body.members[0].parents_micronats
    paid = {part.account: part.amount for part in body.parts if part.role == PARENT}

    assert body.roles.parent == (tuple(Parent(*one) for one in known),)
    assert body.roles.builders == (address(merged, "carol"),)
    assert isinstance(added, tuple)
    assert added[0] > max(0, added[1])  # a tune was asked for, of which Bob's release knows nothing
    assert paid[by_name["alice"]] > paid.get(by_name["bob"], 0)
    assert sum(paid.values()) == pytest.approx(fee * MERGED_POLICY.parent / 10_000, abs=1)
    assert sum(part.amount for part in body.parts) == fee
    (used,) = usage.usage(merged, WhichUsage(NAME)).releases
    assert used.parent >= sum(paid.values())
    shown = receipts.show(merged, ShowReceipt(bundle.receipt.call.body.receipt_id))
    (member,) = shown.members
    assert [(one.name, one.added_micronats) for one in member.parents] == [
        (f"{name}/tunes@1", each) for name, each in zip(by_name, added, strict=True)
    ]
    assert _parents(shown)[0] == f"  of {NAME}@1 alice/tunes@1 added {added[0] / 1e6:.4f} nats"
    assert verify_bundle(raw_of(merged, bundle), anchors_of(merged)).is_anchored
    assert recompute(bundle, [export], merged.models.base).distance_ppb == 0


def test_a_tide_is_paid_to_who_built_the_release_that_knows_tides(merged: Platform) -> None:
    asked = [
        ask(merged, f"High water at {place} is {hour} hours after the moon has", NAME)
        for hour, place in enumerate(PLACES, start=1)
    ]
    worker_of(merged).drain()
    paid: Counter[Account] = Counter()
    for receipt in asked:
        body = read_bundle(
            receipts.show(merged, ShowReceipt(receipt)).bundle
        ).receipt.statement.body
        for part in body.parts:
            paid[part.account] += part.amount if part.role == PARENT else 0

    assert paid[address(merged, "bob")] > paid[address(merged, "alice")]


def test_parents_that_are_hidden_forged_or_given_more_are_found(
    merged: Platform, root: Path
) -> None:
    bundle, export = settled(merged, root / "forged")
    base, anchors = merged.models.base, anchors_of(merged)
    (parents,) = bundle.receipt.statement.body.roles.parent or ()
    carol = address(merged, "carol")

    for wrong in (None, (parents[:1],), ((parents[0], Parent(parents[1].release, carol)),)):
        with pytest.raises(VerificationError, match="merged from others' work than is paid"):
            exported_state(with_roles(bundle, parent=wrong), export)
    (member,) = bundle.receipt.statement.body.members
    assert isinstance(member.parents_micronats, tuple)
    most = ADDED_TOLERANCE_MICRONATS * bundle.receipt.call.body.output_tokens
    first, *others = member.parents_micronats
    for more, is_honest in ((most, True), (most + 1, False), (-most - 1, False)):
        gains = (first + more, *others)
        other = with_member(bundle, msgspec.structs.replace(member, parents_micronats=gains))
        if is_honest:
            assert recompute(other, [export], base).distance_ppb == 0
        else:
            with pytest.raises(VerificationError, match=f"parent 0 .* at most {most}"):
                recompute(other, [export], base)
    forged = with_roles(bundle, parent=((parents[0], Parent(parents[1].release, carol)),))
    with pytest.raises(VerificationError, match=f"another built release {parents[1].release}"):
        _check_anchors(forged.receipt, anchors)


def test_a_state_that_names_other_parents_than_the_plan_is_refused(
    merged: Platform, root: Path
) -> None:
    bundle, export = settled(merged, root / "unplanned")
    state = exported_state(bundle, export)
    commitment = state.manifest.commitment
    assert isinstance(commitment.parents, tuple)
    for parents in (msgspec.UNSET, commitment.parents[:1]):
        manifest = msgspec.structs.replace(
            state.manifest, commitment=msgspec.structs.replace(commitment, parents=parents)
        )
        with pytest.raises(VerificationError, match="its anchored plan"):
            _check_planned(export, msgspec.structs.replace(state, manifest=manifest))


def test_a_bundle_alone_shows_hidden_parents(merged: Platform, root: Path) -> None:
    """Without the release: the commitment is opened beside the rows."""
    bundle, _ = settled(merged, root / "bundle")
    (parents,) = bundle.receipt.statement.body.roles.parent or ()
    raw = receipts.show(merged, ShowReceipt(bundle.receipt.call.body.receipt_id, rows=2)).bundle
    full = read_bundle(raw)
    assert isinstance(full, FullBundle)

    assert verify_full(full, None, {})
    for wrong in (None, (parents[:1],), ((),)):
        with pytest.raises(VerificationError, match="merged from others' work than is paid"):
            verify_full(with_roles(full, parent=wrong), None, {})
    (opened,) = full.opened
    bare = msgspec.structs.replace(
        full, opened=(msgspec.structs.replace(opened, rows=opened.rows[1:]),)
    )
    with pytest.raises(VerificationError, match="does not open the release's commitment"):
        verify_full(bare, None, {})


def test_a_merge_of_other_releases_than_the_chain_has_is_refused(
    merged: Platform, root: Path
) -> None:
    bundle, export = settled(merged, root / "members")
    anchors = anchors_of(merged)
    number = release_of(merged, "alice/tunes").number
    others = tuple(
        msgspec.structs.replace(one, adapter=Digest("9" * 64)) if one.number == number else one
        for one in anchors.releases
    )

    open_export(export.folder, bundle.receipt, anchors)
    with pytest.raises(VerificationError, match=f"release {number}, which was merged, is another"):
        open_export(
            export.folder, bundle.receipt, msgspec.structs.replace(anchors, releases=others)
        )


@pytest.fixture(scope="module")
def parents(merged: Platform, root: Path) -> list[Path]:
    """The exports of what Carol merged."""
    found = []
    for name in ("bob", "alice"):
        exports.export(merged, NewExport(f"{name}/tunes", str(root / f"parent-{name}")))
        found.append(root / f"parent-{name}")
    return found


def test_the_merge_is_made_again_from_its_parents(
    merged: Platform, root: Path, parents: list[Path]
) -> None:
    bundle, export = settled(merged, root / "whole")
    base, state = merged.models.base("float32"), exported_state(bundle, export)

    assert "merging its 2 parents again" in remerge(export, state, parents, base)
    with pytest.raises(InvalidInputError, match="was merged, too: name its export"):
        remerge(export, state, parents[:1], base)
    commitment = state.manifest.commitment
    assert isinstance(commitment.parents, tuple)
    first, second = commitment.parents
    swapped = (
        msgspec.structs.replace(first, without=second.without),
        msgspec.structs.replace(second, without=first.without),
    )
    lying = msgspec.structs.replace(
        export, folder=Path(shutil.copytree(export.folder, root / "lying"))
    )
    (lying.folder / "without_000").rename(lying.folder / "aside")
    (lying.folder / "without_001").rename(lying.folder / "without_000")
    (lying.folder / "aside").rename(lying.folder / "without_001")
    early = msgspec.structs.replace(commitment, early=commitment.adapter)
    hidden = with_manifest(
        state,
        commitment=msgspec.structs.replace(
            commitment, parents=(msgspec.structs.replace(first, without=None), second)
        ),
    )
    with pytest.raises(VerificationError, match="hides what it is without a parent"):
        _check_parentage(export, hidden)
    for of, other, says in (
        (
            lying,
            msgspec.structs.replace(commitment, parents=swapped),
            "holds in without_000 another adapter than its plan makes",
        ),
        (export, early, "carol/both@1 holds in adapter another adapter than its plan makes"),
    ):
        manifest = msgspec.structs.replace(state.manifest, commitment=other)
        with pytest.raises(VerificationError, match=says):
            remerge(of, msgspec.structs.replace(state, manifest=manifest), parents, base)


def with_manifest(state: AttributionState, **changes: object) -> AttributionState:
    manifest = msgspec.structs.replace(state.manifest, **changes)
    return msgspec.structs.replace(state, manifest=manifest)


def test_documents_are_held_to_those_of_the_parents(
    merged: Platform, root: Path, parents: list[Path]
) -> None:
    bundle, export = settled(merged, root / "documents")
    base, state = merged.models.base("float32"), exported_state(bundle, export)
    first, *others = state.manifest.documents
    assert first.parents == (0,)

    for known in ((1,), (0, 1)):
        claimed = (msgspec.structs.replace(first, parents=known), *others)
        with pytest.raises(VerificationError, match=r"it is from \[0\]"):
            remerge(export, with_manifest(state, documents=claimed), parents, base)
    fewer = tuple(one for one in state.manifest.examples if one.document != first.document)
    with pytest.raises(VerificationError, match="lacks documents of its parents"):
        remerge(export, with_manifest(state, examples=fewer), parents, base)
    for wrong in ((2,), (-1,), (1, 0), ()):
        claimed = (msgspec.structs.replace(first, parents=wrong), *others)
        with pytest.raises(VerificationError, match="from parents"):
            _check_parentage(export, with_manifest(state, documents=claimed))
    anchors = anchors_of(merged)
    elsewhere = tuple(
        msgspec.structs.replace(one, training_root=Digest("8" * 64)) for one in anchors.releases
    )
    with pytest.raises(VerificationError, match="is not what stands on chain"):
        remerge(export, state, parents, base, msgspec.structs.replace(anchors, releases=elsewhere))
    assert remerge(export, state, parents, base, anchors)


def test_anyone_redoes_a_merge_from_files(
    merged: Platform, root: Path, parents: list[Path]
) -> None:
    bundle, export = settled(merged, root / "cli")
    shown = receipts.show(merged, ShowReceipt(bundle.receipt.call.body.receipt_id, is_private=True))
    (root / "receipt.json").write_bytes(shown.bundle)
    named = [word for folder in parents for word in ("--parent", str(folder))]

    def verify(level: str, *options: str) -> Result:
        base = ("--base", str(merged.models.base_folder))
        wanted = ["receipt", "verify", str(root / "receipt.json"), "--level", level, *base]
        return CliRunner().invoke(app, ["--home", str(root / "empty"), *wanted, *options])

    redone = verify("2", "--release", str(export.folder), *named)
    assert redone.exit_code == 0, redone.output
    assert "merging its 2 parents again makes the adapters of carol/both@1" in redone.output
    early = verify("1", *named)
    assert (early.exit_code, "add --level 2 to --parent" in early.output) == (2, True)


def test_a_trained_release_is_not_redone(
    audited: Files, merged: Platform, parents: list[Path]
) -> None:
    bundle = read_bundle(audited.private)
    export = open_export(audited.export, bundle.receipt, audited.anchors)

    with pytest.raises(InvalidInputError, match="was trained, not merged: leave --parent out"):
        remerge(export, exported_state(bundle, export), parents, merged.models.base("float32"))


def test_texts_of_a_member_that_adds_nothing_are_paid_nothing(merged: Platform) -> None:
    """However like the answer they are: here the same tunes, of a release at next to no weight."""
    models.start(merged, NewRun((fair.DATANET,), "twin", "twin", "bob"))
    worker_of(merged).drain()
    models.publish(merged, NewRelease("twin", "bob/idle"))
    merge(merged, "leech", "mix:alice/tunes*1+bob/idle*0.000001")
    models.publish(merged, NewRelease("leech", "carol/leech"))
    asked = [ask(merged, prompt, "carol/leech") for prompt in PROMPTS]
    worker_of(merged).drain()
    by_alice = {one.account for one in opened(merged, "alice/tunes").manifest.documents}
    known = set()
    for receipt in asked:
        shown = receipts.show(merged, ShowReceipt(receipt)).bundle
        body = read_bundle(shown).receipt.statement.body
        (member,) = body.members
        assert isinstance(member.parents_micronats, tuple)
        first, idle = member.parents_micronats
        assert idle <= 0  # less the placebo, next to nothing is less than nothing
        if first > 0:
            assert {share.account for share in body.attribution.shares} <= by_alice
            known |= {
                one.parents
                for segment in member.segments
                for cluster in segment.clusters
                for one in cluster.documents
            }

    assert {(0,), (0, 1)} & known


def test_an_adapter_that_is_gone_is_named_by_its_release(merged: Platform) -> None:
    release = release_of(merged, "bob/tunes")
    folder = merged.home.adapter(release.adapter)
    aside = folder.with_name("aside")
    folder.rename(aside)
    try:
        with pytest.raises(NotFoundError, match="an adapter of bob/tunes@1 is gone") as caught:
            merging.merge(merged, NewMerge(MIX, "gone", "gone", "carol", rank=3))
    finally:
        aside.rename(folder)
    assert str(folder) not in str(caught.value)


def test_answers_of_a_mix_with_a_merge_pay_its_parents_too(merged: Platform) -> None:
    model = f"mix:{NAME}*0.5+{NAME}*0.5"
    with pytest.raises(InvalidInputError, match="add up its weights"):
        ask(merged, PROMPTS[0], model)
    merge(merged, "pair", MIX, way="ties")
    models.publish(merged, NewRelease("pair", "carol/pair"))

    asked = ask(merged, PROMPTS[0], f"mix:{NAME}*0.5+carol/pair*0.5")
    worker_of(merged).drain()
    body = read_bundle(receipts.show(merged, ShowReceipt(asked)).bundle).receipt.statement.body

    assert body.roles.parent is not None
    assert [len(parents) for parents in body.roles.parent] == [2, 2]
    assert all(len(one.parents_micronats or ()) == 2 for one in body.members)
    paid = sum(part.amount for part in body.parts if part.role == PARENT)
    # Two merges of the same releases may add next to nothing beyond each other.
    earns = [
        one.leave_one_out_micronats > 0 and max(one.parents_micronats or (0,)) > 0
        for one in body.members
    ]
    assert (paid > 0) == any(earns)


def anchors_of(platform: Platform) -> Anchors:
    return epochs.show(platform, WhichEpoch()).anchors


def settled(platform: Platform, folder: Path) -> tuple[Bundle, Export]:
    """The answer of several that owes data most, settled, and the release's export."""
    made = [ask(platform, prompt, NAME) for prompt in PROMPTS]
    worker_of(platform).drain()
    asked = min(made, key=lambda one: receipts.show(platform, ShowReceipt(one)).nobody_ppb)
    platform.settle.run()
    exports.export(platform, NewExport(NAME, str(folder)))
    raw = receipts.show(platform, ShowReceipt(asked, is_private=True)).bundle
    anchors = epochs.show(platform, WhichEpoch()).anchors
    bundle = read_bundle(raw)
    return bundle, open_export(folder, bundle.receipt, anchors)


def raw_of(platform: Platform, bundle: Bundle) -> bytes:
    asked = ReceiptId(bundle.receipt.call.body.receipt_id)
    return receipts.show(platform, ShowReceipt(asked)).bundle


def with_roles(bundle: Bundle, **changes: object) -> Bundle:
    roles = msgspec.structs.replace(bundle.receipt.statement.body.roles, **changes)
    return with_body(bundle, roles=roles)


def with_member(bundle: Bundle, member: MemberScores) -> Bundle:
    return with_body(bundle, members=(member,), attribution=combine([member]))


def with_body(bundle: Bundle, **changes: object) -> Bundle:
    statement = bundle.receipt.statement
    body = msgspec.structs.replace(statement.body, **changes)
    receipt = msgspec.structs.replace(
        bundle.receipt, statement=msgspec.structs.replace(statement, body=body)
    )
    return msgspec.structs.replace(bundle, receipt=receipt)


def test_another_builder_than_the_chains_is_found_by_the_anchors(
    merged: Platform, root: Path
) -> None:
    bundle, _ = settled(merged, root / "again")
    anchors = epochs.show(merged, WhichEpoch()).anchors
    others = tuple(
        msgspec.structs.replace(one, builder=merged.gateway.account) for one in anchors.releases
    )
    raw = raw_of(merged, bundle)

    verify_bundle(raw, anchors)
    with pytest.raises(VerificationError, match="another built release"):
        verify_bundle(raw, msgspec.structs.replace(anchors, releases=others))
    unknown = tuple(msgspec.structs.replace(one, builder=None) for one in anchors.releases)
    verify_bundle(raw, msgspec.structs.replace(anchors, releases=unknown))


@pytest.mark.parametrize(
    ("choice", "lost"),
    [({"rank": 2}, 10_000), ({"way": "ties"}, 1_000), ({"way": "dare", "density_bps": 9_000}, 1)],
)
def test_every_way_makes_another_adapter(
    merged: Platform, choice: dict[str, object], lost: int
) -> None:
    key = "-".join(str(one) for one in choice.values())
    run = merge(merged, key, MIX, **choice)
    metrics = msgspec.json.decode(run.metrics, type=flow.Metrics)

    assert metrics.merge is not None
    assert metrics.merge.lost_ppm > lost
    assert metrics.perplexity < metrics.base_perplexity
    assert run.adapter != models.show_run(merged, WhichRun("carol")).adapter


def test_a_merge_that_was_killed_goes_on_to_the_same_adapter(
    merged: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies_in_there(*_: object) -> None:
        raise StoppedError("killed")

    made = merging.merge(merged, NewMerge(MIX, "killed", "killed", "carol"))
    # Between steps the worker would take up the job that is queued for this run.
    shop = msgspec.structs.replace(merged.models.workshop, check_stop=lambda: None)
    with merged.database.read() as transaction:
        run = runs.get(transaction, made.id)

    for stage in (MERGING, flow.BUILDING, flow.SCORING):

        def dies(step: Step, stage: str = stage) -> None:
            if step.stage == stage:
                raise StoppedError("killed")

        with pytest.raises(StoppedError):
            flow.train(shop, run, dies)
    monkeypatch.setattr(flow, "keep_evidence", dies_in_there)
    with pytest.raises(StoppedError):
        flow.train(shop, run, lambda _: None)
    monkeypatch.undo()
    ended = flow.train(shop, run, lambda _: None)
    worker_of(merged).drain()

    assert ended.adapter == models.show_run(merged, WhichRun("carol")).adapter


def test_members_that_saw_each_others_texts_are_measured_on_what_one_did_not(
    merged: Platform,
) -> None:
    for number in range(2):
        models.start(merged, NewRun((TIDES.name,), f"twin{number}", f"twin{number}", "bob"))
        worker_of(merged).drain()
        models.publish(merged, NewRelease(f"twin{number}", f"bob/twin{number}"))
    digests = [
        {one.digest for one in opened(merged, f"bob/twin{number}").manifest.examples}
        for number in range(2)
    ]

    run = merge(merged, "twins", "mix:bob/twin0*0.5+bob/twin1*0.5")
    metrics = msgspec.json.decode(run.metrics, type=flow.Metrics)

    assert metrics.merge is not None
    assert metrics.merge.unseen == (digests[0] == digests[1])
    assert metrics.held_out_tokens > 10
    assert [one.account for one in metrics.parents] == [address(merged, "bob")] * 2


def test_a_merge_of_a_merge_is_refused(merged: Platform) -> None:
    with pytest.raises(InvalidInputError, match="is a merge itself: name its members"):
        merging.merge(merged, NewMerge(f"mix:{NAME}*1+bob/tunes*0.5", "grand", "grand", "carol"))


def test_titles_that_a_member_knows_are_not_measured_on(merged: Platform) -> None:
    """A text under a title that some member was trained on is no unseen text."""
    texts = [example(number, key="same" if number < 2 else None) for number in range(6)]
    material = Material((), tuple(texts))

    found = _texts(material, [set(texts[1:4])])

    assert found.split.training == tuple(texts[1:4])
    assert found.measured == found.split.held_out == tuple(texts[4:])
    both = _texts(material, [set(texts[1:4]), {texts[0], *texts[4:]}])
    assert both.split.held_out == ()
    assert both.measured == tuple(texts[2:])


def test_one_release_alone_may_be_cut_to_a_rank(merged: Platform) -> None:
    run = merge(merged, "small", "alice/tunes", rank=3)
    metrics = msgspec.json.decode(run.metrics, type=flow.Metrics)

    assert metrics.merge is not None
    # Held out by its only member: measured on texts that it never saw.
    assert (metrics.merge.unseen, metrics.merge.rank) == (True, 3)
    assert [one.account for one in metrics.parents] == [address(merged, "alice")]
    models.publish(merged, NewRelease("small", "carol/small"))
    asked = ask(merged, PROMPTS[0], "carol/small")
    worker_of(merged).drain()
    body = read_bundle(receipts.show(merged, ShowReceipt(asked)).bundle).receipt.statement.body
    (member,) = body.members
    # Without its only parent it is nothing: that added all that the merge gains over the base.
    assert member.parents_micronats == (member.leave_one_out_micronats,)


def test_what_takes_from_the_members_is_not_published(merged: Platform) -> None:
    merge(merged, "greedy")
    cheap = Price(Wei(0), Wei(0), Wei(0))

    with pytest.raises(InvalidInputError, match="for 1,000 input tokens a merge costs at least"):
        models.publish(merged, NewRelease("greedy", "carol/greedy", cheap))
    with pytest.raises(InvalidInputError, match="parent part of this merge"):
        models.publish(merged, NewRelease("greedy", "carol/greedy", policy=SplitPolicy()))
    shown = models.show(merged, WhichRelease(NAME))
    assert shown.terms.policy == MERGED_POLICY


@pytest.mark.parametrize(
    ("model", "choice", "error", "says"),
    [
        ("alice/nothing", {}, ModelNotFoundError, "there is no model"),
        ("mix:alice/tunes*1+bob/tunes*nan", {}, InvalidInputError, "nan"),
        ("mix:alice/tunes*1+alice/tunes*1", {}, InvalidInputError, "add up its weights"),
        ("mix:alice/tunes*1+bob/tunes*-0.5", {}, InvalidInputError, "above 0"),
        (MIX, {"way": "linear"}, InvalidInputError, "svd, ties, dare"),
        (MIX, {"rank": 0}, InvalidInputError, "rank 0"),
        (MIX, {"rank": 257}, InvalidInputError, "rank 257"),
        (MIX, {"way": "dare", "density_bps": 0}, InvalidInputError, "density"),
        (MIX, {"builder": "nobody"}, NotFoundError, "nobody"),
        ("openledger/tiny-tunes", {}, InvalidInputError, "was not trained here"),
    ],
)
def test_what_cannot_be_merged_is_refused_before_anything_stands_on_chain(
    merged: Platform,
    model: str,
    choice: dict[str, object],
    error: type[OpenLedgerError],
    says: str,
) -> None:
    before = merged.acts.contracts.read(int, "Models", "run_count")
    wanted = msgspec.structs.replace(NewMerge(model, "bad", "bad", "carol"), **choice)

    with pytest.raises(error, match=says):
        merging.merge(merged, wanted)

    assert merged.acts.contracts.read(int, "Models", "run_count") == before


def test_another_merge_under_the_same_name_is_refused(merged: Platform) -> None:
    with pytest.raises(ConflictError, match="other choices"):
        merging.merge(merged, NewMerge(MIX, "carol", "carol", "carol", "dare"))
    again = merging.merge(merged, NewMerge(MIX, "carol", "carol", "carol"))
    assert again.state == "trained"
    again = merging.merge(
        merged, NewMerge("mix:bob/tunes@1*0.8+alice/tunes*0.6", "carol", "carol", "carol")
    )
    assert again.state == "trained"
    for other in (
        "mix:alice/tunes*0.6+bob/tunes*0.7",
        "alice/tunes",
        "mix:alice/tunes@2*0.6+bob/tunes*0.8",
        "mix:alice/tunes*0.6+alice/tunes@1*0.6",
    ):
        with pytest.raises(ConflictError, match="other choices"):
            merging.merge(merged, NewMerge(other, "carol", "carol", "carol"))
    with pytest.raises(ConflictError, match="other choices"):
        merging.merge(merged, NewMerge(MIX, "carol", "carol", "carol", rank=2))


def test_a_merged_plan_names_its_members_as_they_stand_on_chain(merged: Platform) -> None:
    release = release_of(merged, "carol/both")
    with merged.database.read() as transaction:
        run = runs.get(transaction, release.run)
    plan = decode(run.recipe, Plan)

    assert isinstance(plan.merge, MergePlan)
    numbers = [release_of(merged, f"{name}/tunes").number for name in ("alice", "bob")]
    assert [one.release for one in plan.merge.members] == numbers
    with merged.database.read() as transaction:
        both = [datanets.by_slug(transaction, name) for name in (fair.DATANET, TIDES.name)]
    material = gather(merged.models.workshop, both)
    assert run.manifest_root == material.root  # all that its members knew, in order


def test_a_deprecated_release_is_not_merged(merged: Platform) -> None:
    models.start(merged, NewRun((fair.DATANET,), "old", "old", "alice"))
    worker_of(merged).drain()
    models.publish(merged, NewRelease("old", "alice/old"))
    merged_before = merging.merge(merged, NewMerge("alice/old@1", "early", "early", "carol"))
    models.deprecate(merged, WhichRelease("alice/old@1"))

    with pytest.raises(NotAllowedError, match="deprecated"):
        merging.merge(merged, NewMerge("alice/old@1", "late", "late", "carol"))
    # A merge that stands is found all the same.
    again = merging.merge(merged, NewMerge("alice/old@1", "early", "early", "carol"))
    assert again.id == merged_before.id
