"""A release is held against adapters that never saw some of its data."""

from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from openledger.attribution.attribute import Attributor
from openledger.attribution.card.examine import Examination, Question, Retrained, examine
from openledger.attribution.card.figures import Audit, Measured, Sizes, Times
from openledger.attribution.card.panel import auditor_of, clusters_of, correction_of, halves_of
from openledger.attribution.card.subsets import cluster_halves, without_each
from openledger.attribution.credit.documents import ElsewhereText
from openledger.attribution.influence.gradients import Checkpoints, ProbedModel
from openledger.attribution.influence.rows import quantise_query
from openledger.attribution.release import build
from openledger.attribution.scoring import Scoring
from openledger.attribution.state import (
    AttributionState,
    StateManifest,
    commit_audit,
    load_state,
)
from openledger.core.encoding import encode
from openledger.core.errors import DigestMismatchError, InvalidInputError, NotAllowedError
from openledger.core.types import PARTS_PER_BILLION, Digest
from openledger.lm.base import BaseModel
from openledger.lm.frozen import hidden_cache
from openledger.lm.lora import Adapter, LoraPair
from openledger.settlement.shares import Unscored
from openledger.training.recipe import Recipe as TrainingRecipe
from openledger.training.rows import Row
from openledger.training.steps.ensemble import Member, train_members
from tests.attribution.releases import (
    RECIPE,
    SEED,
    account,
    examples_of,
    some_text,
    trained_adapter,
)

TEXTS = tuple(some_text(i, words=10) for i in range(8))
OWNERS = tuple(i % 4 for i in range(8))
TRAINING = TrainingRecipe(
    rank=4,
    last_layers=2,
    epochs=8,
    batch_size=4,
    learning_rate_micro=20_000,
    warmup_steps=1,
    precision="float32",
    anchor_weight_hundredths=0,
)


class Room(msgspec.Struct, frozen=True):
    """A release with all the adapters that its card needs."""

    state: AttributionState
    folder: Path
    retrained: Retrained
    inside: tuple[Question, ...]
    outside: tuple[Question, ...]

    def examined(self, base: BaseModel, **changes: object) -> Examination:
        retrained = msgspec.structs.replace(self.retrained, **changes)
        return examine(self.state, base, retrained, self.inside, self.outside)


def question(base: BaseModel, text: str) -> Question:
    ids = base.tokenizer.encode(text)
    return Question(tuple(ids[:12]), tuple(ids[12:]))


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, base: BaseModel) -> Room:
    rows = [Row(i, tuple(ids)) for i, ids in enumerate(base.tokenizer.encode_documents(TEXTS))]
    first = TRAINING.shape(base.layers).layers[0]
    folder = tmp_path_factory.mktemp("examined") / "state"
    cache = hidden_cache(folder.parent, base, first, [row.tokens for row in rows])

    def trained(kept: np.ndarray) -> list[Adapter]:
        members = [Member(tuple(np.flatnonzero(one).tolist()), b"seed") for one in kept]
        return train_members(base, TRAINING, rows, cache, members)

    released = trained_adapter(base, [row.tokens for row in rows])  # enough to be owed for
    early = trained(np.ones((1, 8)))[0]
    models = Checkpoints(early=ProbedModel(base, early), final=ProbedModel(base, released))
    state = build(folder, models, examples_of(base, TEXTS, OWNERS), RECIPE)
    manifest = state.manifest
    owners = [entry.account for entry in manifest.documents]
    retrained = Retrained(
        released=released,
        early=early,
        halves=trained(halves_of(manifest, 16).kept),
        by_cluster=trained(cluster_halves(SEED, clusters_of(manifest), 16)),
        everything=trained(np.ones((1, 8)))[0],
        left_out=trained(without_each(owners)),
    )
    return Room(
        state=state,
        folder=folder,
        retrained=retrained,
        inside=tuple(question(base, text) for text in TEXTS[:6]),
        outside=tuple(question(base, some_text(100 + i, words=8)) for i in range(3)),
    )


@pytest.fixture(scope="module")
def found(room: Room, base: BaseModel) -> Examination:
    return room.examined(base)


def test_everything_is_measured(found: Examination) -> None:
    assert found.calibration is not None
    assert found.audited is not None
    for figures in (found.influence, found.audited):
        for name in figures.__struct_fields__:
            interval = getattr(figures, name)
            assert interval.low_milli <= interval.mean_milli <= interval.high_milli, name
            assert interval.answers == 6
    assert found.influence.lds_contributor is not None
    assert found.influence.lds_contributor.mean_milli > 300
    assert found.nobody is not None
    assert found.nobody.outside == 3
    assert found.nobody.paid_inside_milli >= found.nobody.paid_outside_milli


def test_who_is_owed_for_a_passage_but_brought_nothing_here_has_no_figures(
    tmp_path: Path, room: Room, base: BaseModel
) -> None:
    """He was the first to commit it, in another Datanet."""
    models = Checkpoints(
        early=ProbedModel(base, room.retrained.early),
        final=ProbedModel(base, room.retrained.released),
    )
    first = [ElsewhereText(account(99), text, 0) for text in TEXTS[:3]]
    examples = examples_of(base, TEXTS, OWNERS)
    state = build(tmp_path / "state", models, examples, RECIPE, elsewhere=first)
    paid = Attributor(state, models).attribute(room.inside[0].prompt, room.inside[0].answer)
    found = msgspec.structs.replace(room, state=state).examined(base)

    assert account(99) in {share.account for share in paid.attribution.shares}
    assert found.influence.payout_error is not None
    assert found.influence.payout_error.answers == 6


def test_an_adapter_that_answers_nothing_else_has_no_figure_of_nobody(
    room: Room, base: BaseModel
) -> None:
    assert msgspec.structs.replace(room, outside=()).examined(base).nobody is None


def test_gradients_that_are_no_numbers_measure_nothing(room: Room, base: BaseModel) -> None:
    with pytest.raises(InvalidInputError, match="no finite numbers"):
        room.examined(base, released=broken_adapter(room.retrained.released))


def test_what_was_not_trained_is_not_measured(room: Room, base: BaseModel) -> None:
    bare = room.examined(base, by_cluster=[], everything=None, left_out=[])

    assert bare.influence.lds_contributor is not None
    assert bare.influence.lds_document is None
    assert bare.influence.leave_one_out is None
    assert bare.influence.payout_error is None


def test_losses_that_are_no_numbers_are_refused(room: Room, base: BaseModel) -> None:
    broken = broken_adapter(room.retrained.halves[0])

    with pytest.raises(InvalidInputError, match="no numbers"):
        room.examined(base, halves=[broken, *room.retrained.halves[1:]])


def broken_adapter(adapter: Adapter) -> Adapter:
    pairs = {
        site: LoraPair(pair.a, torch.full_like(pair.b, torch.nan))
        for site, pair in adapter.pairs.items()
    }
    return Adapter(adapter.shape, adapter.base, pairs)


@pytest.fixture
def audit(found: Examination, room: Room) -> Audit:
    measured = Measured(
        method=1,
        half_adapters=16,
        cluster_adapters=4,
        left_out=4,
        held_out=6,
        generated=0,
        influence=found.influence,
        audited=found.audited,
        nobody=found.nobody,
        sizes=Sizes(8, 8, 4, 1, 1),
        times=Times(1, 1, 1),
    )
    names = tuple(Digest(f"{number:064x}") for number in range(len(room.retrained.halves)))
    return Audit(names, found.calibration, measured)


def test_an_audit_stands_under_the_training_root(room: Room, audit: Audit) -> None:
    before = load_state(room.folder)
    after = commit_audit(room.folder, audit)

    assert after.manifest.audit == audit
    assert after.training_root != before.training_root
    assert load_state(room.folder, after.training_root).manifest.audit == audit
    flattered = msgspec.structs.replace(
        audit, measured=msgspec.structs.replace(audit.measured, half_adapters=64)
    )
    commit_audit(room.folder, flattered)
    with pytest.raises(DigestMismatchError, match="training root"):
        load_state(room.folder, after.training_root)
    commit_audit(room.folder, audit)


def with_audit(manifest: StateManifest, audit: Audit | msgspec.UnsetType) -> StateManifest:
    commitment = msgspec.structs.replace(manifest.commitment, audit=audit)
    return msgspec.structs.replace(manifest, commitment=commitment)


def release(room: Room, base: BaseModel, audit: Audit | None) -> Attributor:
    """By influence alone, or audited."""
    models = Checkpoints(
        early=ProbedModel(base, room.retrained.early),
        final=ProbedModel(base, room.retrained.released),
    )
    if audit is None:
        return Attributor(room.state, models)
    by_name = dict(zip(audit.adapters, room.retrained.halves, strict=True))
    manifest = with_audit(room.state.manifest, audit)
    return Attributor(room.state, models, auditor_of(manifest, base, by_name.__getitem__))


def test_an_audited_answer_says_by_which_losses_it_was_corrected(
    room: Room, base: BaseModel, audit: Audit
) -> None:
    one = room.inside[0]
    plain = release(room, base, None).attribute(one.prompt, one.answer)
    audited = release(room, base, audit).attribute(one.prompt, one.answer)
    before, after = plain.segments[0], audited.segments[0]
    shared = sum(share.weight_ppb for share in audited.attribution.shares)

    assert before.losses_micronats is msgspec.UNSET
    assert isinstance(after.losses_micronats, tuple)
    assert len(after.losses_micronats) == 16
    assert (after.gain, after.query) == (before.gain, before.query)
    assert [c.score for c in after.clusters] != [c.score for c in before.clusters]
    assert [c.floor for c in after.clusters] == [c.floor for c in before.clusters]
    assert shared + audited.attribution.nobody_ppb == PARTS_PER_BILLION
    assert b"." not in encode(audited)
    assert release(room, base, audit).attribute(one.prompt, one.answer) == audited


def test_documents_of_a_corrected_cluster_sum_to_its_score(
    tmp_path: Path, room: Room, base: BaseModel, audit: Audit
) -> None:
    texts = [*TEXTS[:7], TEXTS[0] + " x"]
    models = Checkpoints(
        early=ProbedModel(base, room.retrained.early),
        final=ProbedModel(base, room.retrained.released),
    )
    state = build(tmp_path / "near", models, examples_of(base, texts, OWNERS), RECIPE)
    near, one = msgspec.structs.replace(room, state=state), room.inside[0]
    found = release(near, base, audit).attribute(one.prompt, one.answer)
    shared = [one for one in found.segments[0].clusters if len(one.documents) > 1]

    assert shared
    for cluster in shared:
        assert sum(document.score for document in cluster.documents) == cluster.score


def test_a_release_without_an_audit_refuses_it(room: Room, base: BaseModel, audit: Audit) -> None:
    manifest, none = room.state.manifest, dict[Digest, Adapter]()
    for without in (msgspec.UNSET, msgspec.structs.replace(audit, calibration=None)):
        with pytest.raises(NotAllowedError, match="no half-data adapters"):
            auditor_of(with_audit(manifest, without), base, none.__getitem__)


def test_losses_that_are_no_numbers_pay_nobody(room: Room, base: BaseModel, audit: Audit) -> None:
    retrained = msgspec.structs.replace(
        room.retrained, halves=[broken_adapter(one) for one in room.retrained.halves]
    )
    broken, one = msgspec.structs.replace(room, retrained=retrained), room.inside[0]

    found = release(broken, base, audit).attribute(one.prompt, one.answer)
    assert found.unscored is Unscored.NOT_FINITE
    assert found.attribution.nobody_ppb == PARTS_PER_BILLION


def test_audited_scores_are_redone_from_the_state_without_a_model(
    room: Room, base: BaseModel, audit: Audit
) -> None:
    """A checker's scoring corrects as the gateway's does, by the losses that were signed."""
    one, state = room.inside[0], room.state
    segment = release(room, base, audit).attribute(one.prompt, one.answer).segments[0]
    vector = release(room, base, audit).features(one.prompt, one.answer)
    assert vector is not None
    assert isinstance(segment.losses_micronats, tuple)
    assert audit.calibration is not None
    commitment = state.manifest.commitment
    query = quantise_query(vector, commitment.layout, commitment.scales)
    correct = correction_of(state.manifest, 16, audit.calibration).corrected

    (found,) = Scoring(state).scores(
        [query], [partial(correct, losses_micronats=segment.losses_micronats)]
    )
    assert found == segment.clusters
