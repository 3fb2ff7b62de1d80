from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
import torch

from openledger.attribution.attribute import Attributor
from openledger.attribution.evidence.index import (
    ROW_BYTES,
    SIGNS,
    Asked,
    Codes,
    DocumentIndex,
    Found,
    Projection,
    codes_of,
)
from openledger.attribution.influence.rows import Layout, Scales
from openledger.attribution.method import CHECKPOINTS
from openledger.attribution.state import AttributionState
from openledger.core.errors import DigestMismatchError
from openledger.core.types import Digest
from tests.attribution.releases import SEED

WIDTH = 1_600


def some_rows(count: int, seed: int = 0, width: int = WIDTH) -> np.ndarray:
    stream = np.random.Generator(np.random.Philox(key=seed))
    return stream.integers(-60, 61, (count, width), dtype=np.int8)


def release_of(
    state: AttributionState, rows: np.ndarray, documents: Sequence[int]
) -> AttributionState:
    """The same release with these rows, each document alone in its cluster."""
    replace = msgspec.structs.replace
    half = rows.shape[1] // CHECKPOINTS
    manifest, [entry, *_] = state.manifest, state.manifest.documents
    entries = tuple(
        replace(entry, document=number, cluster=place, row=None)
        for place, number in enumerate(documents)
    )
    commitment = replace(manifest.commitment, layout=Layout((half, half)), scales=Scales((-3, -3)))
    return replace(
        state,
        manifest=replace(manifest, commitment=commitment, documents=entries),
        rows=replace(state.rows, clusters=rows, documents=rows[:0]),
    )


def index_of(state: AttributionState, rows: np.ndarray, documents: Sequence[int]) -> DocumentIndex:
    return DocumentIndex(SEED, codes_of(release_of(state, rows, documents)))


def real(rows: np.ndarray) -> np.ndarray:
    values: np.ndarray = rows.astype(np.float32) / 8
    return values


def test_the_document_whose_row_it_is_comes_first(state: AttributionState) -> None:
    rows = some_rows(40)
    index = index_of(state, rows, range(100, 140))

    for place in (0, 17, 39):
        found = index.search(real(rows[place]), 5)
        assert found[0].document == 100 + place
        assert found[0].score == pytest.approx(
            float(real(rows[place]) @ real(rows[place])), rel=0.05
        )
        assert found[0].score > 3 * found[1].score


def test_scores_follow_the_real_ones(state: AttributionState) -> None:
    rows, asked = some_rows(60), some_rows(30, seed=1)
    index = index_of(state, rows, range(60))
    seen = np.zeros((60, 30))
    for query in range(30):
        for one in index.search(real(asked[query]), 60):
            seen[one.document, query] = one.score

    assert np.corrcoef(seen.ravel(), (real(rows) @ real(asked).T).ravel())[0, 1] > 0.95


def test_documents_of_a_real_release_score_as_its_rows_do(
    state: AttributionState, attributor: Attributor
) -> None:
    """The last two share a cluster, and have rows of their own."""
    asked = Asked((5, 7, 9), tuple(range(20, 60)))
    query = attributor.features(asked.prompt_ids, asked.answer_ids)
    assert query is not None
    commitment = state.manifest.commitment
    units = np.exp2(np.repeat(commitment.scales.exponents, commitment.layout.widths))
    rows = np.concatenate([state.rows.clusters[:7], state.rows.documents]) * units
    index = DocumentIndex(commitment.seed, codes_of(state))
    seen = {one.document: one.score for one in index.search_answer(attributor, asked, 9)}

    for number, row in enumerate(rows):
        error = abs(seen[number] - float(row @ query.numpy()))
        assert error < 5 / SIGNS**0.5 * np.linalg.norm(row) * float(query.norm())


def test_equal_scores_stand_by_document(state: AttributionState) -> None:
    twins = np.repeat(some_rows(1), 4, axis=0)
    found = index_of(state, twins, [9, 3, 7, 1]).search(real(twins[0]), 4)

    assert [one.document for one in found] == [1, 3, 7, 9]


@pytest.mark.parametrize("width", [WIDTH, 40_000])
def test_a_row_takes_four_kibibytes_whatever_the_release_has(
    state: AttributionState, width: int
) -> None:
    codes = codes_of(release_of(state, some_rows(2, width=width), [0, 1]))

    assert codes.rows.shape == (2, ROW_BYTES)


def test_of_a_wide_release_the_strongest_numbers_are_kept(state: AttributionState) -> None:
    """Those of one checkpoint weigh as much as those of the other, however large they are."""
    rows = np.zeros((3, CHECKPOINTS * SIGNS), np.int8)
    rows[:, 1:100:2] = 100
    rows[:, SIGNS + 5_000 : SIGNS + 5_100] = 1
    places = codes_of(release_of(state, rows, range(3))).places

    assert len(places) == SIGNS // CHECKPOINTS
    assert {*range(1, 100, 2), *range(5_000, 5_100)} <= set(places)
    assert list(places) == sorted(places)


def test_the_turn_keeps_inner_products() -> None:
    rows = real(some_rows(6))
    turned = Projection(SEED, WIDTH, range(WIDTH // CHECKPOINTS)).project(rows)

    assert turned.shape == (6, SIGNS)
    np.testing.assert_allclose(turned @ turned.T, rows @ rows.T, rtol=0.01, atol=1_500)


def test_another_release_turns_otherwise() -> None:
    rows, places = real(some_rows(1)), range(WIDTH // CHECKPOINTS)

    assert not np.array_equal(
        Projection(SEED, WIDTH, places).project(rows),
        Projection(Digest("6" * 64), WIDTH, places).project(rows),
    )


def test_rows_of_another_size_are_refused(state: AttributionState) -> None:
    codes = codes_of(state)

    with pytest.raises(DigestMismatchError, match="train the model again"):
        DocumentIndex(SEED, msgspec.structs.replace(codes, rows=codes.rows[:, :-1]))


class Silent:
    def features(self, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> torch.Tensor | None:
        return None


def test_nothing_asked_or_nothing_kept_finds_nothing(state: AttributionState) -> None:
    codes = codes_of(state)
    empty = Codes(codes.width, codes.places, codes.rows[:0], ())

    assert DocumentIndex(SEED, codes).search_answer(Silent(), Asked((1,), ()), 5) == []
    assert DocumentIndex(SEED, empty).search(np.zeros(codes.width, np.float32), 5) == []


def test_an_index_gives_the_same_twice(state: AttributionState) -> None:
    rows = some_rows(20)
    first, second = (index_of(state, rows, range(20)).search(real(rows[3]), 20) for _ in range(2))

    assert first == second
    assert isinstance(first[0], Found)
