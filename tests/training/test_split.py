import pytest
from hypothesis import given
from hypothesis import strategies as st

from openledger.core.errors import InvalidInputError
from openledger.training.split import split_by_key
from tests.training.songs import SEED, example

KEYS = st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=30).filter(
    lambda keys: len(set(keys)) > 1
)


@given(keys=KEYS, seed=st.binary(min_size=32, max_size=32), part=st.integers(1, 9_999))
def test_no_key_stands_on_both_sides_and_nothing_is_lost(
    keys: list[str], seed: bytes, part: int
) -> None:
    examples = [example(i, key=key) for i, key in enumerate(keys)]

    split = split_by_key(examples, seed, part)

    assert not {e.key for e in split.training} & {e.key for e in split.held_out}
    assert sorted(e.document for e in split.training + split.held_out) == list(range(len(keys)))
    assert split.training
    assert split.held_out


def test_the_part_held_out_is_about_what_was_asked_for() -> None:
    examples = [example(i) for i in range(200)]

    split = split_by_key(examples, SEED, 2_500)

    assert 48 <= len(split.held_out) <= 52


def test_the_seed_decides_and_the_order_of_examples_does_not() -> None:
    examples = [example(i) for i in range(40)]
    one = split_by_key(examples, SEED, 2_000)

    assert set(split_by_key(examples[::-1], SEED, 2_000).held_out) == set(one.held_out)
    assert split_by_key(examples, bytes(32), 2_000).held_out != one.held_out


def test_one_key_cannot_be_split() -> None:
    with pytest.raises(InvalidInputError, match="two titles"):
        split_by_key([example(0, key="a"), example(1, key="a")], SEED, 1_000)


@pytest.mark.parametrize("part", [0, 10_000])
def test_all_or_nothing_cannot_be_held_out(part: int) -> None:
    with pytest.raises(InvalidInputError, match="basis points"):
        split_by_key([example(0), example(1)], SEED, part)
