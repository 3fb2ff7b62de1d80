"""The suite at its smallest: what retraining is asked, and what becomes of the answers."""

import msgspec
import numpy as np
import pytest

from bench.attribution import ours
from bench.attribution.corpus import made_up_pages
from bench.attribution.kept import Kept
from bench.attribution.results import (
    ceiling_rows,
    method_rows,
    nobody_rows,
    of_documents,
    of_release,
)
from bench.attribution.setting import Checkpoint, Setting
from bench.attribution.tiny import SMOKE, world
from bench.attribution.truth import halves, without_each
from bench.attribution.world import World
from tests.attribution.releases import trained_adapter


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("models")
    return world(made_up_pages(), folder, 0, SMOKE, Kept(folder / "kept"))


def test_halves_keep_an_owners_documents_together() -> None:
    owner = np.array([0, 0, 1, 1, 2, 2, 3, 3])

    kept = halves(owner, 20, seed=1)

    assert kept.shape == (20, 8)
    assert (kept.sum(1) == 4).all()
    assert (kept[:, ::2] == kept[:, 1::2]).all()
    assert len(np.unique(kept, axis=0)) > 1
    assert (halves(owner, 20, seed=1) == kept).all()


def test_everybody_is_left_out_once() -> None:
    kept = without_each(np.array([0, 1, 1, 2]))

    assert kept.tolist() == [[0, 1, 1, 1], [1, 0, 0, 1], [1, 1, 1, 0]]


@pytest.mark.slow
def test_a_world_has_a_loss_for_every_subset_and_query(small: World) -> None:
    queries = small.setting.queries
    kinds = [query.kind for query in queries]

    assert kinds == ["held-out"] * 3 + ["generated"] * 3 + ["outside"] * 2
    assert {len(query.prompt) + len(query.answer) for query in queries} == {64}
    assert len(small.setting.checkpoints) == SMOKE.retrainings.checkpoints
    assert small.by_contributor.losses.shape == (2, 3, 8)
    assert small.by_document is not None
    assert small.by_document.losses.shape == (2, 3, 8)
    assert small.left_out.losses.shape == (2, 3, 8)
    assert small.whole.shape == (2, 8)
    assert np.isfinite(small.by_contributor.losses).all()
    assert small.by_contributor.losses[0] != pytest.approx(small.by_contributor.losses[1])


@pytest.mark.slow
def test_every_method_gets_every_row(small: World) -> None:
    paid = ours.released(small.setting)
    exact = ours.ekfac(small.setting, [one.adapter for one in small.setting.checkpoints])

    rows = [
        *ceiling_rows([small]),
        *method_rows("released", [small], [of_release(paid)], {"payout error": 0.5}),
        *method_rows("exact", [small], [of_documents(small, exact)], {}),
        *nobody_rows("released", [small], [paid], {"contributors' part outside": 0.05}),
    ]
    found = {row.name: row for row in rows}

    assert exact.shape == (9, 8)
    assert found["released: payout error"].target == "<= 0.5"
    assert found["released: contributors' part outside"].is_good is not None
    assert found["released: area under the curve of nobody"].is_good is None
    for name in ("released", "exact"):
        value = found[f"{name}: LDS document"].value
        assert value is not None
        assert -1 <= value <= 1
        low, high = (found[f"{name}: LDS document, {end}"].value for end in ("from", "to"))
        assert low is not None
        assert high is not None
        assert low <= value <= high


def test_a_release_pays_whose_words_the_answers_are(setting: Setting) -> None:
    rows = [document.tokens for document in setting.documents]
    learnt = Checkpoint(trained_adapter(setting.base, rows), 0.0)
    setting = msgspec.structs.replace(setting, checkpoints=(learnt,))

    paid = ours.released(setting)

    assert (paid.shares.sum(0) + paid.nobody) == pytest.approx(1)
    is_paid = paid.nobody < 0.9
    owners = setting.owner[::-1]  # query q is a piece of document 5 - q
    assert is_paid.sum() >= 5
    assert (paid.scores.argmax(0) == owners)[is_paid].all()
    assert (paid.shares.argmax(0) == owners)[is_paid].all()


def test_copies_share_the_score_of_their_cluster(setting: Setting) -> None:
    first, *others = setting.documents[:3]
    copy = msgspec.structs.replace(first, id="copy", contributor="copycat")
    copied = msgspec.structs.replace(setting, documents=(first, *others, copy))

    scores = ours.released(copied).scores

    people = copied.contributors
    assert scores[people.index("copycat")].any()
    assert (scores[people.index("copycat")] == scores[people.index(first.contributor)]).all()


@pytest.mark.slow
def test_what_was_not_retrained_has_no_row(small: World) -> None:
    no_documents = msgspec.structs.replace(small, by_document=None)
    one_seed = msgspec.structs.replace(small, whole=small.whole[:1])
    scores = np.ones((9, 8))

    [missing] = [
        row
        for row in method_rows("one", [no_documents], [of_documents(no_documents, scores)], {})
        if "LDS document" in row.name
    ]

    assert missing.value is None
    assert {row.name.split(",")[0] for row in ceiling_rows([no_documents])} == {
        "seed to seed: LDS contributor",
        "seed to seed: leave-one-out correlation",
        "seed to seed: payout error",
    }
    assert ceiling_rows([one_seed]) == []
