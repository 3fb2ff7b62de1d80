"""Halves of a release: half of the units each, from the seed alone, and little alike."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openledger.attribution.card.subsets import (
    check_count,
    cluster_halves,
    fractions,
    halves,
    without_each,
)
from openledger.core.errors import InvalidInputError
from openledger.core.types import Digest

SEED = Digest("5" * 64)
PEOPLE = [f"person {number % 16}" for number in range(64)]
EACH = list(range(64))


def overlap(kept: np.ndarray) -> float:
    """How alike the halves are: mean square of the products of signs."""
    signs = 2.0 * kept - 1
    products = signs @ signs.T
    return float((products[~np.eye(len(kept), dtype=bool)] ** 2).mean())


@settings(max_examples=20, deadline=None)
@given(st.integers(4, 30), st.integers(1, 3), st.sampled_from([16, 20, 24]))
def test_each_half_keeps_whole_contributors_and_half_of_them(
    people: int, texts: int, count: int
) -> None:
    owners = [f"person {number}" for number in range(people) for _ in range(texts)]
    found = halves(SEED, owners, list(range(len(owners))), count)

    assert found.by_contributor
    assert found.kept.shape == (count, len(owners))
    whole = found.kept.reshape(count, people, texts)
    assert (whole == whole[:, :, :1]).all()
    assert set(whole[:, :, 0].sum(1)) == {people // 2}


def test_the_same_seed_gives_the_same_halves_and_another_gives_others() -> None:
    first, again = halves(SEED, PEOPLE, EACH, 16), halves(SEED, PEOPLE, EACH, 16)
    other = halves(Digest("6" * 64), PEOPLE, EACH, 16)

    assert (first.kept == again.kept).all()
    assert (first.kept != other.kept).any()


def test_halves_are_less_alike_than_those_drawn_at_random() -> None:
    stream = np.random.Generator(np.random.Philox(key=3))
    half = np.repeat([1, 0], 8)
    drawn = np.array([stream.permutation(half) for _ in range(16)])

    assert overlap(halves(SEED, PEOPLE, EACH, 16).kept[:, :16]) < overlap(drawn) / 2


@pytest.mark.parametrize("people", [1, 3])
def test_with_too_few_contributors_clusters_are_halved(people: int) -> None:
    owners = [f"person {number % people}" for number in range(12)]
    clusters = [number // 2 for number in range(12)]
    found = halves(SEED, owners, clusters, 16)

    assert not found.by_contributor
    assert (found.kept[:, ::2] == found.kept[:, 1::2]).all()
    assert set(found.kept.sum(1)) == {6}


def test_too_few_clusters_cannot_be_halved() -> None:
    with pytest.raises(InvalidInputError, match=r"needs 4 contributors.* this data has 3"):
        halves(SEED, ["one"] * 6, [0, 0, 1, 1, 2, 2], 16)


@pytest.mark.parametrize("count", [1, 8, 15, 17, -16])
def test_a_number_of_adapters_that_tells_nothing_is_refused(count: int) -> None:
    with pytest.raises(InvalidInputError, match="multiple of 4"):
        check_count(count)


def test_no_adapters_are_as_good_as_sixteen() -> None:
    check_count(0)
    check_count(16)


def test_a_quarter_more_halves_are_of_clusters() -> None:
    clusters = [number // 2 for number in range(64)]
    kept = cluster_halves(SEED, clusters, 16)

    assert kept.shape == (4, 64)
    assert (kept[:, ::2] == kept[:, 1::2]).all()


def test_leaving_each_out_keeps_all_others() -> None:
    kept = without_each(["a", "b", "a", "c"])

    assert kept.tolist() == [[0, 1, 0, 1], [1, 0, 1, 1], [1, 1, 1, 0]]


def test_a_cluster_is_kept_by_the_part_of_its_documents() -> None:
    kept = np.array([[1, 0, 1, 1], [0, 0, 0, 1]])

    assert fractions(kept, [0, 0, 1, 1]).tolist() == [[0.5, 1.0], [0.0, 0.5]]
