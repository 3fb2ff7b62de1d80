from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openledger.core.errors import InvalidInputError
from openledger.lm.base import BaseModel, load_base
from openledger.lm.tokenizer import Tokenizer
from openledger.training.rows import encode_rows
from tests.training.songs import example


@pytest.fixture(scope="module")
def tokenizer(base_folder: Path) -> Tokenizer:
    return load_base(base_folder).tokenizer


@given(
    texts=st.lists(st.text("abc |", min_size=1, max_size=60), min_size=1, max_size=4),
    length=st.integers(8, 30),
)
def test_every_token_is_predicted_once_and_once_only(
    texts: list[str], length: int, tokenizer: Tokenizer
) -> None:
    rows = encode_rows(tokenizer, [example(0, text) for text in texts], length)

    for index, text in enumerate(texts):
        tokens = [*tokenizer.encode(text), tokenizer.end]
        own = [row for row in rows if row.example == index]
        assert [t for row in own for t in row.tokens[1:]] == tokens[1:]
        assert own[0].tokens[0] == tokens[0]
    assert all(2 <= len(row.tokens) <= length for row in rows)


def test_nothing_to_train_on_is_refused(base: BaseModel) -> None:
    with pytest.raises(InvalidInputError, match="nothing to train on"):
        encode_rows(base.tokenizer, [], 16)


def test_an_empty_chunk_is_named(base: BaseModel) -> None:
    with pytest.raises(InvalidInputError, match=r"chunk \w+ is empty"):
        encode_rows(base.tokenizer, [example(0, "")], 16)
