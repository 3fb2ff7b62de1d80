import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from openledger.attribution.influence.sketch import (
    Layout,
    Scales,
    Sketch,
    dot,
    dots,
    layout,
    quantise_query,
    quantise_rows,
    scales_for,
)
from openledger.core.errors import InvalidInputError
from openledger.core.types import Digest

SEED = Digest("1" * 64)


def gaussian(rows: int, sizes: list[int], seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, size, generator=generator) for size in sizes]


def test_the_width_is_shared_in_proportion_and_never_exceeded() -> None:
    shared = layout([100, 300, 4_000], 440)

    assert shared.widths == (10, 30, 400)
    assert layout([3, 5], 1_000).widths == (3, 5)
    assert layout([1, 10_000], 100).widths[0] == 1


def test_a_width_below_the_number_of_parts_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="cannot share"):
        layout([5, 5, 5], 2)
    with pytest.raises(InvalidInputError, match="cannot share"):
        layout([], 2)


def test_inner_products_survive_within_the_bound() -> None:
    sizes = [4_000, 9_000]
    sketch = Sketch(SEED, layout(sizes, 2_048))
    features = gaussian(60, sizes)
    exact = torch.cat(features, 1)
    seen = sketch.project(features)

    lengths = exact.norm(dim=1)
    error = (seen @ seen.T - exact @ exact.T) / (lengths[:, None] * lengths)
    off = error[~torch.eye(60, dtype=torch.bool)]

    assert off.abs().max() < 5 / 2_048**0.5
    assert off.square().mean().sqrt() < 1.1 / 2_048**0.5
    assert off.mean().abs() < 0.002


def test_the_projection_is_linear_and_follows_from_the_seed() -> None:
    sizes = [50, 70]
    parts = layout(sizes, 40)
    features = gaussian(2, sizes)
    both = [part.sum(0, keepdim=True) for part in features]
    sketch = Sketch(SEED, parts)

    assert torch.allclose(sketch.project(both), sketch.project(features).sum(0), atol=1e-5)
    assert torch.equal(Sketch(SEED, parts).project(features), sketch.project(features))
    assert not torch.equal(
        Sketch(Digest("2" * 64), parts).project(features), sketch.project(features)
    )


def test_a_full_width_loses_nothing_but_the_order() -> None:
    features = gaussian(3, [16])
    seen = Sketch(SEED, layout([16], 16)).project(features)

    assert torch.allclose(seen @ seen.T, features[0] @ features[0].T, atol=1e-5)


def test_the_stream_behind_the_seed_is_the_same_everywhere() -> None:
    sketch = Sketch(SEED, layout([8], 4))

    seen = sketch.project([torch.arange(1.0, 9.0)[None]])

    assert seen.tolist() == [[7.0, -2.0, 8.0, 3.0]]


def test_scales_are_the_finest_that_hold_every_row() -> None:
    parts = Layout((2, 2), (2, 2))
    rows = torch.tensor([[100.0, -3.0, 0.004, 0.0], [127.0, 1.0, 0.0, 0.001]])
    scales = scales_for(rows, parts)
    whole = quantise_rows(rows, parts, scales)

    assert whole.dtype == np.int8
    assert scales.exponents[0] == 1
    assert 63 <= abs(int(whole[0, 2])) <= 127
    assert scales_for(torch.zeros(1, 4), parts).exponents == (-120, -120)


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.integers(-20, 20))
def test_integer_scores_follow_the_real_ones(seed: int, exponent: int) -> None:
    parts = Layout((64, 192), (64, 192))
    rows, query = gaussian(20, [256], seed)[0], gaussian(1, [256], seed + 1)[0][0]
    rows = torch.cat([rows[:, :64] * 2.0**exponent, rows[:, 64:]], dim=1)
    scales = scales_for(rows, parts)

    scores = torch.tensor(
        dot(quantise_query(query, parts, scales), quantise_rows(rows, parts, scales)),
        dtype=torch.float64,
    )
    real = rows.double() @ query.double()

    factor = (scores @ real) / (real @ real)
    assert (scores / factor - real).abs().max() < 0.05 * real.abs().max()


def test_scores_are_exact_integers() -> None:
    generator = np.random.Generator(np.random.Philox(key=3))
    query = generator.integers(-32_767, 32_768, 16_384).astype(np.int16)
    rows = generator.integers(-32_767, 32_768, (700, 16_384)).astype(np.int16)

    assert dot(query, rows) == [
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

    assert dot(query, rows) == [width * 2**15 * -least, width * 2**15 * (least + 1)]


def test_rows_that_would_not_be_exact_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="not exact"):
        dot(np.zeros(4, np.int16), np.zeros((1, 4), np.int32))


def test_a_zero_query_scores_zero() -> None:
    parts = Layout((4,), (4,))
    query = quantise_query(torch.zeros(4), parts, Scales((0,)))

    assert dot(query, np.ones((2, 4), np.int8)) == [0, 0]
