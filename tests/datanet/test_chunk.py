from hashlib import sha256

from hypothesis import given, settings
from hypothesis import strategies as st

from openledger.datanet.chunk import Config, chunk
from openledger.datanet.extract import Document

SMALL = Config(largest_characters=20, largest_tune_characters=60)


def cut(*texts: str) -> list[tuple[int, str]]:
    documents = [Document("t", text, "MIT", "k", "o") for text in texts]
    return [(piece.document, piece.text) for piece in chunk(documents, SMALL)]


def test_a_short_page_is_one_chunk_named_by_its_digest() -> None:
    (piece,) = chunk([Document("t", "a\n\nb", "MIT", "k", "o")], Config())

    assert piece.text == "a\n\nb"
    assert piece.digest == sha256(b"a\n\nb").hexdigest()


def test_long_text_is_cut_at_the_coarsest_border_that_fits() -> None:
    assert cut("one two three\n\nfour five\n\nsix") == [
        (0, "one two three"),
        (0, "four five\n\nsix"),
    ]
    assert cut("a first line here\na second line") == [
        (0, "a first line here"),
        (0, "a second line"),
    ]
    assert cut("all these words stand in one line") == [
        (0, "all these words"),
        (0, "stand in one line"),
    ]
    assert cut("x" * 45) == [(0, "x" * 20), (0, "x" * 20), (0, "x" * 5)]


def test_a_tune_is_not_cut_until_it_is_very_long() -> None:
    assert len(cut("X:1\nK:C\n" + "ABcd|" * 10)) == 1
    assert len(cut("X:1\nK:C\n" + "ABcd|" * 20)) == 3


def test_documents_are_numbered_in_order() -> None:
    assert cut("one", "two") == [(0, "one"), (1, "two")]


@settings(deadline=None)
@given(st.text("ab \n", max_size=200))
def test_no_letter_is_lost_and_no_chunk_is_too_long(text: str) -> None:
    pieces = [piece for _, piece in cut(text)]

    assert all(0 < len(piece) <= SMALL.largest_characters and piece.strip() for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())
