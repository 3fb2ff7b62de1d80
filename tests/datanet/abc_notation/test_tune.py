from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openledger.core.errors import InvalidInputError
from openledger.datanet.abc_notation import parse, split_tunes
from openledger.datanet.abc_notation.header import default_unit, is_compound, read_metre, read_unit

HEAD = "X:1\nT:A Tune\nM:4/4\nL:1/8\nK:G\n"


def lengths(music: str, head: str = HEAD) -> list[Fraction]:
    return [note.length * 8 for note in parse(head + music).notes]  # in eighths


def test_a_tune_has_titles_key_and_bars() -> None:
    tune = parse("X:1\nT:One % first\nT:Two\nM:6/8\nL:1/8\nK:D minor % says the book\nDFA|d3 z3|]")

    assert tune.titles == ("One", "Two")
    assert tune.key == "D minor"
    assert [bar.length for bar in tune.bars] == [Fraction(3, 8), Fraction(3, 4)]
    assert [note.step for note in tune.notes] == [1, 3, 5, 8, None]


def test_octaves_and_accidentals_are_read() -> None:
    notes = parse(HEAD + "C, ^F _b' =c'' __A2").notes

    assert [note.step for note in notes] == [-7, 3, 20, 21, 5]
    assert [note.accidental for note in notes] == ["", "^", "_", "=", "__"]


@pytest.mark.parametrize(
    ("music", "expected"),
    [
        ("A A2 A/ A// A/4 A3/2", [1, 2, Fraction(1, 2), Fraction(1, 4), Fraction(1, 4), 1.5]),
        ("A>B c<d", [1.5, 0.5, 0.5, 1.5]),
        ("A>>B", [1.75, 0.25]),
        ("(3ABc A", [Fraction(2, 3)] * 3 + [1]),
        ("(2AB", [1.5, 1.5]),
        ("(5ABcde A", [Fraction(2, 5)] * 5 + [1]),
        ("(3:2:2AB A", [Fraction(2, 3)] * 2 + [1]),
        ("[CEG]2 [C2E2] z x2", [2, 2, 1, 2]),
        ("{gf}A {/g}B", [1, 1]),
        ('A-A ~B .c (AB) "G"A !trill!B vA uB y `A *', [1] * 11),
        ("Z A", [8, 1]),
    ],
)
def test_lengths_follow_the_standard(music: str, expected: list[Fraction]) -> None:
    assert lengths(music) == expected


def test_a_tuplet_of_a_compound_metre_takes_three_beats() -> None:
    head = "X:1\nM:6/8\nL:1/8\nK:G\n"

    assert lengths("(5ABcde", head) == [Fraction(3, 5)] * 5


def test_several_bars_of_rest_are_bars() -> None:
    assert [bar.length for bar in parse(HEAD + "G8|Z2|G8").bars] == [1, 1, 1, 1]
    assert parse("X:1\nK:C\nG8|Z|").bars[1].length == 1


def test_sections_end_at_repeats_double_bars_and_numbered_endings() -> None:
    bars = parse(HEAD + "A|:B|c:|[1d|2e||f::g|]").bars

    assert [bar.starts_section for bar in bars] == [
        True, True, False, True, True, True, True,
    ]  # fmt: skip
    assert [bar.ends_section for bar in bars] == [True, False, True, True, True, True, True]


def test_fields_between_the_music_change_it() -> None:
    bars = parse(HEAD + "G8|\nM:3/4\n[L:1/4]G3|[K:D]\nw:la la la\nG3|").bars

    assert [bar.metre for bar in bars] == [1, Fraction(3, 4), Fraction(3, 4)]
    assert [bar.length for bar in bars] == [1, Fraction(3, 4), Fraction(3, 4)]


def test_a_tune_without_unit_counts_by_its_metre() -> None:
    assert parse("X:1\nM:2/4\nK:C\nA").notes[0].length == Fraction(1, 16)
    assert parse("X:1\nK:C\nA").notes[0].length == Fraction(1, 8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("X:1\nT:No key\nABc", "no header field"),
        ("X:1\nT:No key", "no K: line"),
        ("", "no K: line"),
        ("X:1\nK:C\nz4|", "no notes"),
        ("X:1\nK:C\nhello world", "does not know"),
        ("X:1\nK:C\n>A", "without a note before"),
        ("X:1\nV:1\nK:C\nA", "several voices"),
        ("X:1\nM:waltz\nK:C\nA", "not a metre"),
        ("X:1\nM:0/4\nK:C\nA", "not a metre"),
        ("X:1\nM:3/0\nK:C\nA", "not a metre"),
        ("X:1\nL:eighth\nK:C\nA", "not a note length"),
        ("X:1\nL:1/0\nK:C\nA", "not a note length"),
        ("X:1\nK:C\n[.]A", "holds no note"),
        ("X:1\nK:C\nA99999", "does not know"),
    ],
)
def test_what_is_no_tune_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        parse(text)


def test_comments_and_blank_lines_in_the_header_are_passed_over() -> None:
    assert parse("X:1\n% a remark\n\nK:C\nA B % two notes").notes[1].step == 6


def test_a_bar_line_before_the_first_note_opens_no_bar() -> None:
    assert len(parse(HEAD + "|:|A8|").bars) == 1
    assert len(parse(HEAD + "|A8|").bars) == 1


def test_a_book_splits_into_tunes() -> None:
    assert split_tunes("intro\nX:1\nK:C\nA\n\nX:2\nK:D\nB\n") == ["X:1\nK:C\nA", "X:2\nK:D\nB"]


def test_metres_and_units_are_read() -> None:
    assert read_metre("C|") == 1
    assert read_metre("none") is None
    assert read_metre("") is None
    assert read_metre("(2+3)/8 % odd") == Fraction(5, 8)
    assert read_metre("3") == Fraction(3, 4)
    assert read_unit("1") == 1
    assert default_unit(None) == Fraction(1, 8)
    assert is_compound("9/8")


@settings(deadline=None)
@given(st.text("ABcdXKM:|[](){}<>/'\",=^_-zZ0123456789 \n%!~.y*\\", max_size=80))
def test_any_text_parses_or_is_refused(music: str) -> None:
    try:
        tune = parse(HEAD + music)
    except InvalidInputError:
        return

    assert tune.notes
