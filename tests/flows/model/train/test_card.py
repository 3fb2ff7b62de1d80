"""A run that is asked for a card trains on halves of its data, once, and says what they showed."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from openledger.attribution.card.figures import Audit
from openledger.attribution.state import AttributionState, commit_audit, load_state
from openledger.cli.card import check_card
from openledger.core.errors import (
    ConflictError,
    InvalidInputError,
    InvalidProofError,
    StoppedError,
    VerificationError,
)
from openledger.core.types import Digest, Precision
from openledger.flows.model.train import flow
from openledger.flows.model.train.adapters import HALVING
from openledger.flows.model.train.plan import Step, attribution_folder
from openledger.flows.money.verify.audit import Retraining, audit
from openledger.flows.money.verify.bundle import Bundle, read_bundle
from openledger.flows.money.verify.export import PLAN, Export, open_export
from openledger.flows.money.verify.full import verify_full
from openledger.flows.money.verify.recompute import exported_state, recompute
from openledger.lm.base import BaseModel
from openledger.operations.models import (
    CardView,
    NewExport,
    NewRelease,
    NewRun,
    RecipeChoice,
    WhichRelease,
)
from openledger.operations.receipts import ShowReceipt
from openledger.settlement.shares import CreditPart, is_paid
from openledger.storage.private.sealed_folder import SealedFolder
from openledger.storage.records.model import runs
from openledger.web.operations import cards, exports, models
from openledger.web.work import worker_of
from openledger.wiring.platform import Platform
from tests import market as fair
from tests.audited import PROMPTS, ask, bundle

pytestmark = pytest.mark.slow

CHOICE = RecipeChoice(
    epochs=1, rank=2, last_layers=1, scored_tunes=0, card_adapters=16, leaves_out=True
)

TAUGHT = RecipeChoice(scored_tunes=0, card_adapters=16)  # as in `tests.audited`


def start(market: Platform, choice: RecipeChoice = CHOICE) -> runs.Run:
    made = models.start(market, NewRun((fair.DATANET,), "run", "run", choice=choice))
    with market.database.read() as transaction:
        return runs.get(transaction, made.id)


@pytest.mark.timeout(300)
def test_a_card_is_measured_though_killed_and_stands_under_the_training_root(
    market: Platform,
) -> None:
    run = start(market)
    shop, steps = market.models.workshop, list[Step]()

    def dies(step: Step) -> None:
        steps.append(step)
        if step.stage == HALVING and step.done > 4:
            raise StoppedError("killed")

    with pytest.raises(StoppedError):
        flow.train(shop, run, dies)
    again = list[Step]()
    ended = flow.train(shop, run, again.append)
    models.publish(market, NewRelease("run", "me/tunes"))
    shown = cards.card(market, WhichRelease("me/tunes"))
    folder = attribution_folder(market.home.run(run.op))
    state = load_state(folder, read=SealedFolder(market.sealer).read)
    audit = state.manifest.audit
    assert isinstance(audit, Audit)
    found = audit.measured

    # The first four were finished before.
    assert min(step.done for step in again if step.stage == HALVING) >= 4
    assert ended.state is runs.RunState.TRAINED
    assert shown.measured == found
    assert (shown.run, shown.runs) == (2, 2)
    check_lies(shown, state)
    people = found.sizes.contributors  # all four, or three where the seed holds out one's only tune
    assert (found.half_adapters, found.left_out) == (16, people)
    assert found.cluster_adapters == (4 if people == 4 else 0)
    assert (found.influence.lds_contributor is None) == (people == 3)
    assert found.influence.lds_document is not None
    assert found.influence.payout_error is not None
    assert len(set(audit.adapters)) == 16
    assert all(market.home.adapter(one).is_dir() for one in audit.adapters)


def check_lies(shown: CardView, state: AttributionState) -> None:
    """Whoever shows a card can show no other."""
    assert shown.training_root == state.training_root
    assert shown.committed is not None
    assert shown.committed.summary(state.training_root).audit == state.manifest.audit
    check_card(shown)
    assert shown.measured is not None
    better = msgspec.structs.replace(shown.measured, half_adapters=64)
    lies: list[dict[str, Any]] = [
        {"measured": better},
        {"measured": None},
        {"is_audited": not shown.is_audited},
        {"adapter": shown.base},
        {"base": shown.adapter},
        {"committed": None},
    ]
    for lie in lies:
        with pytest.raises(VerificationError, match="not the one under its training root"):
            check_card(msgspec.structs.replace(shown, **lie))
    with pytest.raises(InvalidProofError):
        check_card(msgspec.structs.replace(shown, training_root=Digest("0" * 64)))


@pytest.mark.timeout(300)
def test_an_audited_answer_is_redone_on_another_machine(market: Platform, tmp_path: Path) -> None:
    name = audited_release(market)
    asked = [ask(market, prompt, name, is_audited=True) for prompt in PROMPTS]
    worker_of(market).drain()
    market.settle.run()
    exports.export(market, NewExport(name, str(tmp_path / "export"), has_texts=True))
    bundles = [
        read_bundle(bundle(market, ShowReceipt(one, is_private=True, rows=10_000))) for one in asked
    ]
    paid = [one for one in bundles if one.receipt.statement.body.attribution.shares]
    assert paid
    export = open_export(tmp_path / "export", paid[0].receipt, None)
    again = [recompute(one, [export], market.models.base) for one in paid]

    assert [one.distance_ppb for one in again] == [0] * len(paid)
    assert len([*export.folder.glob("half_*")]) == 16
    for one in paid:
        check_full(one, exported_state(one, export))
    check_retrained(paid, export, market.models.base, tmp_path)
    plan = export.folder / PLAN  # `open_export` holds it to the chain
    plan.write_bytes(plan.read_bytes().replace(b'"half_adapters":16', b'"half_adapters":32'))
    with pytest.raises(VerificationError, match="16 half-data adapters, its anchored plan 32"):
        recompute(paid[0], [export], market.models.base)


def audited_release(market: Platform) -> str:
    """On a dozen tunes influence may foretell nothing of the halves; each run draws new ones."""
    for number in range(5):
        run, name = f"run{number}", f"me/tunes{number}"
        models.start(market, NewRun((fair.DATANET,), run, run, choice=TAUGHT))
        worker_of(market).drain()
        models.publish(market, NewRelease(run, name))
        if cards.card(market, WhichRelease(name)).is_audited:
            return name
    pytest.fail("influence foretold nothing in five runs")


def check_retrained(
    bundles: list[Bundle],
    export: Export,
    load: Callable[[Precision], BaseModel],
    folder: Path,
) -> None:
    """A half-data adapter comes out again, unless another was exported in its place."""
    audited = audit(bundles, export, load, Retraining(2, 1, "a"), folder / "scratch")
    half = audited.half
    assert half is not None
    assert audited.rebuilt_ppb == 0
    assert 50 * half.apart_micronats < half.usual_micronats

    rotated = rotate_halves(bundles[0], export, folder / "rotated")
    half = audit(bundles, rotated, load, Retraining(2, 1, "a"), folder / "scratch").half
    assert half is not None
    assert 4 * half.apart_micronats > half.usual_micronats


def rotate_halves(bundle: Bundle, export: Export, folder: Path) -> Export:
    """The same release, had it been trained on other halves than its seed says."""
    shutil.copytree(export.folder, folder)
    audit = exported_state(bundle, export).manifest.audit
    assert isinstance(audit, Audit)
    adapters = (*audit.adapters[1:], audit.adapters[0])
    for number, place in enumerate([*range(1, len(adapters)), 0]):
        shutil.rmtree(folder / f"half_{number:03}")
        shutil.copytree(export.folder / f"half_{place:03}", folder / f"half_{number:03}")
    state = commit_audit(folder / "attribution", msgspec.structs.replace(audit, adapters=adapters))
    release = msgspec.structs.replace(export.body.release, training_root=state.training_root)
    return Export(folder, msgspec.structs.replace(export.body, release=release))


def check_full(bundle: Bundle, state: AttributionState) -> None:
    """The scores follow, and who stands behind them may not differ."""
    (member,) = bundle.receipt.statement.body.members
    states = {member.release: state}
    (line,) = verify_full(bundle, None, states)
    assert line.startswith("all audited scores follow")
    with pytest.raises(InvalidInputError, match="whole state"):
        verify_full(bundle, None, {})

    (segment,) = member.segments
    place, cluster = next((i, one) for i, one in enumerate(segment.clusters) if is_paid(one))
    document = cluster.documents[0]
    thief = bundle.receipt.call.call.gateway
    lies = [
        {"documents": (msgspec.structs.replace(document, **change), *cluster.documents[1:])}
        for change in (
            {"account": thief},
            {"document": document.document + 1},
            {"parts": (CreditPart(thief, 1),)},
            {"score": 2 * document.score},
        )
    ]
    for lie in (*lies, {"documents": ()}, {"score": 2 * cluster.score}, {"floor": 0}):
        false = msgspec.structs.replace(cluster, **lie)  # type: ignore[arg-type]
        clusters = (*segment.clusters[:place], false, *segment.clusters[place + 1 :])
        with pytest.raises(VerificationError, match="do not follow"):
            verify_full(stating(bundle, clusters=clusters), None, states)
    for losses in ((1_000_000,) * 16, (1_000_000,) * 15):
        with pytest.raises(VerificationError, match=r"follow|one loss"):
            verify_full(stating(bundle, losses_micronats=losses), None, states)


def stating(bundle: Bundle, **changes: object) -> Bundle:
    """The same with this in its only segment."""
    statement = bundle.receipt.statement
    (member,) = statement.body.members
    segments = (msgspec.structs.replace(member.segments[0], **changes),)
    members = (msgspec.structs.replace(member, segments=segments),)
    body = msgspec.structs.replace(statement.body, members=members)
    return msgspec.structs.replace(
        bundle,
        receipt=msgspec.structs.replace(
            bundle.receipt, statement=msgspec.structs.replace(statement, body=body)
        ),
    )


def test_a_release_without_half_data_adapters_is_not_measured(market: Platform) -> None:
    shown = cards.card(market, WhichRelease(fair.MODEL))

    assert shown.measured is None
    assert not shown.is_audited
    assert (shown.run, shown.runs) == (1, 1)
    assert shown.committed is None
    check_card(shown)
    with pytest.raises(VerificationError, match="not the one under its training root"):
        check_card(msgspec.structs.replace(shown, is_audited=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"card_adapters": 15}, "multiple of 4"),
        ({"card_adapters": 4}, "16 at least"),
        ({"card_adapters": 0}, "say how many"),
    ],
)
def test_adapters_that_tell_nothing_are_refused_before_anything_is_anchored(
    market: Platform, changes: dict[str, int], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        start(market, msgspec.structs.replace(CHOICE, **changes))
    with market.database.read() as transaction:
        assert len(runs.list_all(transaction)) == 1


def test_the_adapters_of_the_card_cannot_be_changed_after_the_seed_is_known(
    market: Platform,
) -> None:
    start(market)

    with pytest.raises(ConflictError, match="adapters of the card"):
        start(market, msgspec.structs.replace(CHOICE, card_adapters=20))
