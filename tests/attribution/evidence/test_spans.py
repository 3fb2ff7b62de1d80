import re

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from openledger.attribution.evidence.spans import (
    LEAST_WORDS,
    MOST_PLACES,
    WORDS_PER_SPAN,
    Passages,
    suffix_array,
)

LINE = "the quick brown fox jumps over the lazy dog"

# Few words, so that texts share much; among them what breaks careless readers.
words = st.lists(st.sampled_from(["a", "b", "é", "\u202e", "\U0001f3b5", "c\x00"]), max_size=24)
prose = st.builds(
    lambda some, gap: gap.join(some), words, st.sampled_from([" ", "\n\t ", "\u2028"])
)


@given(st.lists(st.integers(-3, 3), max_size=40))
def test_suffixes_are_sorted_as_plainly_as_can_be(numbers: list[int]) -> None:
    naive = sorted(range(len(numbers)), key=lambda place: numbers[place:])

    assert suffix_array(np.array(numbers, np.int64)).tolist() == naive


def plainly_maximal(texts: list[str], answer: str) -> set[tuple[int, int]]:
    """All maximal matches as word ranges, found by trying every range against every text."""
    asked, held = answer.split(), [text.split() for text in texts]
    ranges = {
        (first, end)
        for first in range(len(asked))
        for end in range(first + LEAST_WORDS, len(asked) + 1)
        for one in held
        for place in range(len(one))
        if one[place : place + end - first] == asked[first:end]
    }
    return {
        (first, end)
        for first, end in ranges
        if not any((f, e) != (first, end) and f <= first and end <= e for f, e in ranges)
    }


@given(st.lists(prose, max_size=4), prose)
@example([LINE], f"{LINE} {LINE}")
@example([], LINE)
@example([LINE, ""], "")
def test_passages_are_the_maximal_ones_of_a_plain_search(texts: list[str], answer: str) -> None:
    passages = Passages(dict(enumerate(texts)))
    asked = answer.split()
    starts = [found.start() for found in re.finditer(r"\S+", answer)]
    wanted = plainly_maximal(texts, answer)
    found = passages.find(answer)

    ranges = {(starts.index(span.start), starts.index(span.start) + span.words) for span in found}
    assert ranges <= wanted
    assert len(ranges) == min(len(wanted), -(-len(asked) // WORDS_PER_SPAN))
    for span in found:
        assert span.places
        for place in span.places:
            held = texts[place.document][place.start : place.end]
            assert held.split() == answer[span.start : span.end].split()


def test_no_passage_runs_over_the_end_of_a_document() -> None:
    first, second = LINE.split()[:5], LINE.split()[5:]
    passages = Passages({0: " ".join(first), 1: " ".join(second)})

    assert passages.find(LINE) == []


def test_five_words_are_no_passage() -> None:
    passages = Passages({0: LINE})

    assert passages.find("said the quick brown fox jumps away") == []
    assert passages.find("said the quick brown fox jumps over it")[0].words == 6


def test_the_rarest_passage_is_kept_first() -> None:
    common, rare = "a b a b a b", "zebra yak xerus wombat vole urial"
    passages = Passages({0: f"{common} {rare}", 1: f"{common} . {common} . {common}"})
    found = passages.find(f"{common} | {rare}")

    assert [span.words for span in found] == [6]
    assert found[0].start == len(common) + 3


def test_the_document_most_like_the_whole_answer_stands_first() -> None:
    texts = {7: f"{LINE} and then some other things", 2: LINE, 5: f"{LINE} by a river bank"}
    [span] = Passages(texts).find(f"{LINE} near one river and its bank")

    assert [place.document for place in span.places] == [5, 7, 2]
    assert span.documents == 3


def test_a_passage_that_all_hold_names_ten_of_them() -> None:
    [span] = Passages(dict.fromkeys(range(30), LINE)).find(LINE)

    assert [place.document for place in span.places] == list(range(MOST_PLACES))
    assert span.documents == 30


def test_a_long_answer_that_repeats_a_long_text_is_found_at_once() -> None:
    text = " ".join(str(place % 97) for place in range(3_000))
    [span] = Passages({0: text, 1: LINE}).find(text)

    assert span.words == 3_000
