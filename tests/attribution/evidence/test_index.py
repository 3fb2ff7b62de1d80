from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from openledger.attribution.evidence.index import (
    ROW_BYTES,
    Asked,
    Codes,
    DocumentIndex,
    Found,
    Projection,
    Rows,
)
from openledger.core.errors import DigestMismatchError
from openledger.core.types import Digest

SEED = Digest("5" * 64)
SIZES = (300, 500)


def gradients(count: int, sizes: Sequence[int] = SIZES, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, size, generator=generator) for size in sizes]


def kept(features: Sequence[Tensor], documents: Sequence[int]) -> Codes:
    rows = Rows(SEED)
    order = list(range(len(features[0])))[::-1]  # they come in any order
    rows.hear(order, [part.flip(0) for part in features])
    return rows.codes(documents)


def like(features: Sequence[Tensor], row: int) -> list[Tensor]:
    return [part[row : row + 1] for part in features]


def test_the_document_whose_gradient_it_is_comes_first() -> None:
    features = gradients(40)
    index = DocumentIndex(SEED, kept(features, range(100, 140)))

    for row in (0, 17, 39):
        found = index.search(like(features, row), 5)
        assert found[0].document == 100 + row
        exact = sum(float(part[row] @ part[row]) for part in features)
        assert found[0].score == pytest.approx(exact, rel=0.05)
        assert found[0].score > 3 * found[1].score


def test_scores_follow_the_real_ones() -> None:
    features, asked = gradients(60), gradients(30, seed=1)
    index = DocumentIndex(SEED, kept(features, range(60)))
    real = torch.cat(features, 1) @ torch.cat(asked, 1).T
    seen = np.zeros(real.shape)
    for query in range(30):
        for one in index.search(like(asked, query), 60):
            seen[one.document, query] = one.score

    assert np.corrcoef(seen.ravel(), real.numpy().ravel())[0, 1] > 0.75


def test_a_document_is_the_sum_of_its_rows() -> None:
    features = gradients(3)
    alone = DocumentIndex(SEED, kept(features, [0, 1, 2])).search(like(features, 0), 3)
    joined = DocumentIndex(SEED, kept(features, [4, 9, 4])).search(like(features, 0), 3)
    score = {one.document: one.score for one in alone}

    assert {one.document: one.score for one in joined} == pytest.approx(
        {4: score[0] + score[2], 9: score[1]}
    )


def test_equal_scores_stand_by_document() -> None:
    twins = [part.repeat(4, 1) for part in gradients(1)]
    found = DocumentIndex(SEED, kept(twins, [9, 3, 7, 1])).search(gradients(1), 4)

    assert [one.document for one in found] == [1, 3, 7, 9]


def test_a_row_takes_at_most_four_kibibytes_whatever_its_gradient_has() -> None:
    sizes = (20_000, 30_000)
    codes = kept(gradients(2, sizes), [0, 1])

    assert codes.rows.shape == (2, ROW_BYTES)


def test_the_turn_keeps_inner_products() -> None:
    features = gradients(6)
    turned = Projection(SEED, SIZES).project(features)

    real = torch.cat(features, 1).numpy()
    np.testing.assert_allclose(turned @ turned.T, real @ real.T, rtol=1e-4, atol=1e-3)


def test_another_release_turns_otherwise() -> None:
    features = gradients(1)

    assert not np.array_equal(
        Projection(SEED, SIZES).project(features),
        Projection(Digest("6" * 64), SIZES).project(features),
    )


def test_rows_of_another_size_are_refused() -> None:
    codes = kept(gradients(2), [0, 1])

    with pytest.raises(DigestMismatchError, match="train the model again"):
        DocumentIndex(SEED, Codes(codes.sizes, codes.rows[:, :-1], codes.documents))


class Silent:
    def features(self, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> list[Tensor]:
        return []


def test_nothing_asked_or_nothing_kept_finds_nothing() -> None:
    codes = kept(gradients(2), [0, 1])
    empty = Codes(codes.sizes, codes.rows[:0], ())

    assert DocumentIndex(SEED, codes).search_answer(Silent(), Asked((1,), ()), 5) == []
    assert DocumentIndex(SEED, empty).search(gradients(1), 5) == []


def test_an_index_gives_the_same_twice() -> None:
    features = gradients(20)
    first, second = (
        DocumentIndex(SEED, kept(features, range(20))).search(like(features, 3), 20)
        for _ in range(2)
    )

    assert first == second
    assert isinstance(first[0], Found)
