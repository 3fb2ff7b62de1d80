from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openledger.core.errors import InvalidInputError
from openledger.lm.base import load_base
from openledger.lm.stream import Detokenizer, StopScanner
from openledger.lm.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tiny_folder: Path) -> Tokenizer:
    return load_base(tiny_folder).tokenizer


@given(ids=st.lists(st.integers(0, 300)))
def test_pieces_together_are_the_whole_text(ids: list[int], tokenizer: Tokenizer) -> None:
    stream = Detokenizer(tokenizer)

    pieces = [stream.push(token) for token in ids] + [stream.finish()]

    assert "".join(pieces) == tokenizer.decode(ids)


def test_half_a_character_is_held_back(tokenizer: Tokenizer) -> None:
    stream = Detokenizer(tokenizer)
    ids = tokenizer.encode("é🎻")

    pieces = [stream.push(token) for token in ids]

    assert pieces == ["", "é", "", "", "", "🎻"]
    assert stream.finish() == ""


@given(text=st.text("abc", max_size=30), stops=st.lists(st.text("abc", min_size=1, max_size=4)))
def test_the_text_is_cut_before_the_first_stop_however_it_arrives(
    text: str, stops: list[str]
) -> None:
    scanner = StopScanner(stops)
    given_out = [scanner.push(letter) for letter in text]
    given_out.append(scanner.finish())

    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    seen = text[: min(ends)] if ends else text  # the scanner stops as soon as any stop is whole
    cuts = [seen.find(stop) for stop in stops if stop in seen]
    assert "".join(given_out) == (seen[: min(cuts)] if cuts else text)
    assert scanner.is_stopped == bool(ends)


def test_nothing_comes_after_a_stop() -> None:
    scanner = StopScanner(["\nX:"])

    assert [scanner.push("abc\n"), scanner.push("X:2"), scanner.push("more")] == ["abc", "", ""]
    assert scanner.finish() == ""


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="may not be empty"):
        StopScanner(["\n", ""])
