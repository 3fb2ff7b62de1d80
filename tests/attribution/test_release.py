import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from openledger.attribution.influence.gradients import Checkpoints, ProbedModel
from openledger.attribution.method import CHECKPOINTS
from openledger.attribution.release import TrainingExample, build
from openledger.attribution.state import (
    FACTORS,
    MANIFEST,
    ROWS,
    AttributionState,
    load_state,
    state_bytes,
)
from openledger.core.encoding import decode, encode
from openledger.core.errors import DigestMismatchError, InvalidInputError, NotFoundError
from openledger.core.merkle import verify
from openledger.core.types import Digest
from openledger.lm.base import BaseModel
from openledger.lm.lora import Adapter, LoraPair
from tests.attribution.releases import (
    RECIPE,
    SEED,
    account,
    alone,
    examples_of,
    some_adapter,
    some_text,
)


def test_near_copies_share_a_cluster_and_others_stand_alone(state: AttributionState) -> None:
    documents = state.manifest.documents

    assert [entry.cluster for entry in documents] == [0, 1, 2, 3, 4, 5, 6, 7, 7]
    assert [entry.row is None for entry in documents] == [True] * 7 + [False] * 2
    assert [entry.account for entry in documents] == [account(i % 3) for i in range(9)]


def test_a_cluster_is_the_exact_sum_of_its_documents(state: AttributionState) -> None:
    rows, manifest = state.rows, state.manifest

    assert np.array_equal(rows.clusters[7], rows.documents.astype(np.int16).sum(0))
    total = sum(entry.energy for entry in manifest.documents if entry.cluster == 7)
    assert manifest.clusters[7].energy == total


def test_the_training_root_commits_to_every_example_document_and_row(
    state: AttributionState,
) -> None:
    manifest = state.manifest
    tree = manifest.tree()

    assert (tree.root, tree.size) == (state.training_root, state.training_size)
    assert tree.size == 1 + 9 + 9 + 8 + len(manifest.placebo)
    verify(encode(manifest.documents[4]), tree.prove(1 + 9 + 4), state.training_root)


def test_building_again_gives_the_same_bytes(
    tmp_path: Path, folder: Path, models: Checkpoints, examples: list[TrainingExample]
) -> None:
    again = build(tmp_path / "again", models, examples, RECIPE)

    assert again.training_root == load_state(folder).training_root
    for name in (FACTORS, ROWS, MANIFEST):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_the_seed_and_the_order_of_training_change_the_root(
    tmp_path: Path, models: Checkpoints, examples: list[TrainingExample], state: AttributionState
) -> None:
    other = msgspec.structs.replace(RECIPE, seed=Digest("6" * 64))
    seeded = build(tmp_path / "a", models, examples, other)
    turned = build(tmp_path / "b", models, examples[::-1], RECIPE)

    assert len({seeded.training_root, turned.training_root, state.training_root}) == 3


def test_examples_of_one_document_are_summed(
    tmp_path: Path, models: Checkpoints, examples: list[TrainingExample]
) -> None:
    joined = [msgspec.structs.replace(e, document=0, account=account(0)) for e in examples[:3]]
    split = build(tmp_path / "split", models, examples[:3] + examples[4:], RECIPE)
    whole = build(tmp_path / "whole", models, joined + examples[4:], RECIPE)

    apart = split.rows.clusters[:3].astype(float) * _steps(split)
    together = whole.rows.clusters[0].astype(float) * _steps(whole)

    assert len(whole.manifest.examples) == len(split.manifest.examples)
    for one, other in zip(
        np.split(apart.sum(0), CHECKPOINTS), np.split(together, CHECKPOINTS), strict=True
    ):  # the balance of checkpoints is another, as the documents are
        assert np.corrcoef(one, other)[0, 1] > 0.999


def test_rows_do_not_depend_on_who_brought_the_documents(
    tmp_path: Path, models: Checkpoints, examples: list[TrainingExample], state: AttributionState
) -> None:
    moved = [msgspec.structs.replace(e, account=account(i)) for i, e in enumerate(examples)]

    other = build(tmp_path / "moved", models, moved, RECIPE)

    assert other.manifest.clusters == state.manifest.clusters
    assert other.manifest.placebo == state.manifest.placebo
    assert other.manifest.commitment == state.manifest.commitment


def test_progress_reaches_the_number_of_rows(
    tmp_path: Path, models: Checkpoints, examples: list[TrainingExample]
) -> None:
    seen: list[tuple[int, int]] = []
    build(
        tmp_path / "state", models, examples, RECIPE, lambda done, total: seen.append((done, total))
    )

    assert seen[-1][0] == seen[-1][1] > len(examples)


def test_many_examples_are_measured_in_part_for_the_curvature(
    tmp_path: Path, base: BaseModel, models: Checkpoints
) -> None:
    texts = [some_text(i, words=3) for i in range(300)]

    state = build(tmp_path / "many", models, examples_of(base, texts, [0] * 300), RECIPE)

    assert len(state.rows.clusters) == 300
    assert state.rows.clusters.any(axis=1).all()


def test_sums_of_a_large_cluster_stay_within_their_bits(
    tmp_path: Path, base: BaseModel, models: Checkpoints
) -> None:
    text = some_text(1, words=4)
    examples = examples_of(base, [text] * 300, [0] * 300)

    state = build(tmp_path / "copies", models, examples, RECIPE)

    assert np.array_equal(
        state.rows.clusters[0].astype(int), state.rows.documents.astype(int).sum(0)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda examples: [], "needs training examples"),
        (
            lambda examples: [msgspec.structs.replace(examples[0], rows=((1,),))],
            "fewer than two tokens",
        ),
        (
            lambda examples: [
                examples[0],
                msgspec.structs.replace(examples[1], document=examples[0].document),
            ],
            "under two accounts",
        ),
    ],
)
def test_unfit_examples_are_refused(
    tmp_path: Path,
    models: Checkpoints,
    examples: list[TrainingExample],
    change: Callable[[list[TrainingExample]], list[TrainingExample]],
    message: str,
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        build(tmp_path / "state", models, change(examples), RECIPE)


def test_gradients_that_are_not_finite_are_refused_and_nothing_is_written(
    tmp_path: Path, base: BaseModel, examples: list[TrainingExample]
) -> None:
    adapter = some_adapter(base)
    pairs = {site: LoraPair(pair.a * float("nan"), pair.b) for site, pair in adapter.pairs.items()}
    broken = ProbedModel(base, Adapter(adapter.shape, adapter.base, pairs))

    with pytest.raises(InvalidInputError, match="no finite number"):
        build(tmp_path / "state", alone(broken), examples, RECIPE)

    assert {path.suffix for path in tmp_path.iterdir()} == {".bin", ".json"}  # the cache alone


def test_a_state_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="build the release"):
        load_state(tmp_path)


@pytest.mark.parametrize("name", [FACTORS, ROWS])
def test_one_altered_byte_is_refused(tmp_path: Path, folder: Path, name: str) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    raw = bytearray((copy / name).read_bytes())
    raw[-5] ^= 1
    (copy / name).write_bytes(raw)

    with pytest.raises(DigestMismatchError, match="altered"):
        load_state(copy)


def test_another_root_than_the_chain_says_is_refused(folder: Path) -> None:
    with pytest.raises(DigestMismatchError, match="training root"):
        load_state(folder, Digest("0" * 64))


def test_a_manifest_that_lies_about_its_rows_is_refused(tmp_path: Path, folder: Path) -> None:
    replace = msgspec.structs.replace
    manifest = decode((folder / MANIFEST).read_bytes(), type(load_state(folder).manifest))
    swapped = (manifest.clusters[1], manifest.clusters[0], *manifest.clusters[2:])
    lies = {
        "rows": replace(manifest, clusters=swapped),
        "null model": replace(manifest, commitment=replace(manifest.commitment, null_model=SEED)),
    }
    for said, lie in lies.items():
        copy = Path(shutil.copytree(folder, tmp_path / said))
        (copy / MANIFEST).write_bytes(encode(lie))
        with pytest.raises(DigestMismatchError, match=said):
            load_state(copy)


def test_a_state_of_another_method_is_refused(tmp_path: Path, folder: Path) -> None:
    replace = msgspec.structs.replace
    manifest = load_state(folder).manifest
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    older = replace(manifest, commitment=replace(manifest.commitment, method=1))
    (copy / MANIFEST).write_bytes(encode(older))

    with pytest.raises(InvalidInputError, match="made by method 1"):
        load_state(copy)


def test_rows_that_are_no_rows_are_refused(tmp_path: Path, folder: Path) -> None:
    replace = msgspec.structs.replace
    manifest = load_state(folder).manifest
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    shutil.copy(copy / FACTORS, copy / ROWS)
    lie = replace(manifest, rows=manifest.commitment.factors)
    (copy / MANIFEST).write_bytes(encode(lie))

    with pytest.raises(DigestMismatchError, match="no attribution rows"):
        load_state(copy)


def test_the_size_of_a_state_is_that_of_its_files(folder: Path) -> None:
    assert state_bytes(folder) == sum(path.stat().st_size for path in folder.iterdir())


def _steps(state: AttributionState) -> np.ndarray:
    commitment = state.manifest.commitment
    return np.repeat(2.0 ** np.array(commitment.scales.exponents), commitment.layout.widths)
