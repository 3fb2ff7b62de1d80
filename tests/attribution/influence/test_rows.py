import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from openledger.attribution.influence.rows import (
    Layout,
    Scales,
    dots,
    quantise_query,
    quantise_rows,
    scales_for,
)
from openledger.core.errors import InvalidInputError


def gaussian(rows: int, sizes: list[int], seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, size, generator=generator) for size in sizes]


def test_scales_are_the_finest_that_hold_every_row() -> None:
    parts = Layout((2, 2))
    rows = torch.tensor([[100.0, -3.0, 0.004, 0.0], [127.0, 1.0, 0.0, 0.001]])
    scales = scales_for(rows, parts)
    whole = quantise_rows(rows, parts, scales)

    assert whole.dtype == np.int8
    assert scales.exponents[0] == 1
    assert 63 <= abs(int(whole[0, 2])) <= 127
    assert scales_for(torch.zeros(1, 4), parts).exponents == (-120, -120)
    assert scales_for(torch.ones(3, 4), Layout((0, 4))).exponents[0] == -120  # no feature there


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.integers(-20, 20))
def test_integer_scores_follow_the_real_ones(seed: int, exponent: int) -> None:
    parts = Layout((64, 192))
    rows, query = gaussian(20, [256], seed)[0], gaussian(1, [256], seed + 1)[0][0]
    rows = torch.cat([rows[:, :64] * 2.0**exponent, rows[:, 64:]], dim=1)
    scales = scales_for(rows, parts)

    scores = torch.tensor(
        dots(quantise_query(query, parts, scales)[None], quantise_rows(rows, parts, scales))[0],
        dtype=torch.float64,
    )
    real = rows.double() @ query.double()

    factor = (scores @ real) / (real @ real)
    assert (scores / factor - real).abs().max() < 0.05 * real.abs().max()


def test_scores_are_exact_integers() -> None:
    generator = np.random.Generator(np.random.Philox(key=3))
    query = generator.integers(-32_767, 32_768, 16_384).astype(np.int16)
    rows = generator.integers(-32_767, 32_768, (700, 16_384)).astype(np.int16)

    assert dots(query[None], rows)[0] == [
        int(score) for score in rows.astype(np.int64) @ query.astype(np.int64)
    ]


numbers = st.integers(-(2**15), 2**15 - 1)


@settings(max_examples=60)
@given(
    st.sampled_from([np.int8, np.int16]),
    st.integers(0, 5),
    st.integers(1, 3),
    st.integers(1, 70),
    st.data(),
)
def test_scores_of_several_queries_are_those_of_plain_integers(
    kind: type[np.integer], count: int, asked: int, width: int, data: st.DataObject
) -> None:
    least = np.iinfo(kind).min
    extremes = st.one_of(st.sampled_from([least, -least - 1, 0]), st.integers(least, -least - 1))
    rows = data.draw(arrays(kind, (count, width), elements=extremes))
    queries = data.draw(arrays(np.int16, (asked, width), elements=numbers))
    rows.flags.writeable = False

    plain = queries.astype(object) @ rows.astype(object).T
    assert dots(queries, rows) == plain.tolist()


@pytest.mark.parametrize("kind", [np.int8, np.int16])
def test_the_largest_sums_are_exact(kind: type[np.integer]) -> None:
    least = np.iinfo(kind).min
    width = 2**17 + 2**16
    rows = np.full((2, width), least, kind)
    rows[1] = -least - 1
    query = np.full(width, -(2**15), np.int16)

    assert dots(query[None], rows)[0] == [width * 2**15 * -least, width * 2**15 * (least + 1)]


def test_rows_that_would_not_be_exact_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="not exact"):
        dots(np.zeros((1, 4), np.int16), np.zeros((1, 4), np.int32))


def test_a_zero_query_scores_zero() -> None:
    parts = Layout((4,))
    query = quantise_query(torch.zeros(4), parts, Scales((0,)))

    assert dots(query[None], np.ones((2, 4), np.int8))[0] == [0, 0]
