"""Factors in 12 bits a number."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from openledger.serving.llama.quads import (
    QUAD_BYTES,
    TABLE,
    decode_factor,
    encode_factor,
    quads_bytes,
)


@st.composite
def any_bits(draw: st.DrawFn) -> NDArray[np.uint16]:
    """Of many upper bytes, so that hardly a factor is without strays, or of few."""
    size = draw(st.integers(1, 9)), draw(st.integers(1, 70))
    random = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    return random.integers(0, draw(st.sampled_from([1 << 8, 1 << 12, 1 << 16])), size, np.uint16)


@given(bits=any_bits(), is_b=st.booleans())
def test_any_bits_come_out_as_they_went_in(bits: NDArray[np.uint16], is_b: bool) -> None:
    """Infinite ones, zeros below zero and those that are no numbers, too."""
    factor = encode_factor(bits, is_b=is_b)

    np.testing.assert_array_equal(decode_factor(factor, *bits.shape, is_b=is_b), bits)
    assert factor.quads.nbytes == quads_bytes(*bits.shape)
    assert sorted(factor.strays["column"].tolist()) == factor.strays["column"].tolist()


@given(bits=any_bits(), is_b=st.booleans())
def test_strays_are_those_with_an_upper_byte_that_others_have_more_often(
    bits: NDArray[np.uint16], is_b: bool
) -> None:
    factor = encode_factor(bits, is_b=is_b)
    known = set(factor.uppers.tolist())
    counts = np.bincount((bits >> 8).ravel(), minlength=256)
    strays = {int(one) >> 8 for one in factor.strays["bits"]}

    assert factor.uppers[0] == 0
    assert not strays & known
    assert len(factor.strays) == sum(counts[upper] for upper in strays)
    if strays:
        assert min(counts[upper] for upper in known - {0}) >= max(counts[upper] for upper in strays)
        assert len(known) == TABLE


def test_normal_numbers_have_hardly_any_strays() -> None:
    numbers = np.random.default_rng(0).normal(size=(8, 4_096)).astype(np.float32)
    factor = encode_factor((numbers.view(np.uint32) >> 16).astype(np.uint16), is_b=False)

    assert len(factor.strays) < numbers.size / 1_000


@pytest.mark.parametrize(("rank", "width", "quads"), [(1, 1, 1), (4, 32, 1), (5, 33, 4)])
def test_ranks_and_columns_are_filled_up(rank: int, width: int, quads: int) -> None:
    assert quads_bytes(rank, width) == quads * QUAD_BYTES
