import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openledger.core.errors import DuplicateError, InvalidInputError
from openledger.core.types import Digest
from openledger.datanet.chunk import Chunk, text_digest
from openledger.datanet.clean import Drop, Reason
from openledger.datanet.duplicates import First, fingerprint, fold, without_duplicates

KEY = bytes(range(32))
ANN = First("Ann", "3")
BEN = First("Ben", "12")


def chunks(*texts: str) -> list[Chunk]:
    return [Chunk(text, text_digest(text), index) for index, text in enumerate(texts)]


def index(**texts: First) -> dict[Digest, First]:
    return {fingerprint(KEY, text): first for text, first in texts.items()}


def test_text_that_differs_in_case_and_blanks_has_one_fingerprint() -> None:
    assert fingerprint(KEY, "The  Reel\n") == fingerprint(KEY, "the reel")
    assert fingerprint(KEY, "ﬁne") == fingerprint(KEY, "FINE")
    assert fingerprint(KEY, "the reel") != fingerprint(KEY, "the jig")


def test_networks_do_not_share_fingerprints() -> None:
    assert fingerprint(KEY, "text") != fingerprint(bytes(32), "text")


def test_a_short_key_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="32 bytes"):
        fingerprint(b"short", "text")


def test_new_chunks_are_kept_with_their_fingerprints() -> None:
    result = without_duplicates(chunks("one", "two"), KEY, index().get)

    assert [chunk.text for chunk in result.chunks] == ["one", "two"]
    assert result.fingerprints == (fingerprint(KEY, "one"), fingerprint(KEY, "two"))
    assert result.drops == ()


def test_known_and_repeated_chunks_are_dropped_and_the_first_is_named() -> None:
    known = index(one=ANN, two=BEN)

    result = without_duplicates(chunks("One", "new", "two", "NEW", "one"), KEY, known.get)

    assert [chunk.text for chunk in result.chunks] == ["new"]
    assert result.drops == (
        Drop(Reason.OWN_DUPLICATE, 1),
        Drop(Reason.DUPLICATE, 1, "first by Ben in contribution 12"),
        Drop(Reason.DUPLICATE, 2, "first by Ann in contribution 3"),
    )


def test_a_contribution_without_anything_new_is_refused_with_the_name_of_the_first() -> None:
    known = index(one=ANN, two=BEN)

    with pytest.raises(DuplicateError, match="first by Ann in contribution 3") as caught:
        without_duplicates(chunks("one", "two", "ONE"), KEY, known.get)
    assert caught.value.details == {"contributor": "Ann", "contribution": "3"}


def test_nothing_stays_nothing() -> None:
    assert without_duplicates([], KEY, index().get).chunks == ()


@settings(deadline=None)
@given(st.text(max_size=30))
def test_folding_twice_changes_nothing(text: str) -> None:
    assert fold(fold(text)) == fold(text)
