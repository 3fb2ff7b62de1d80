"""Parse one tune in ABC notation into bars of notes with exact lengths.

It reads what folk transcriptions use: chords, grace notes, tuplets, broken rhythm, ties, slurs,
decorations, repeats, numbered endings, inline and mid-tune changes of metre, key and unit. Every
character of the music must be understood: text that merely looks like a tune does not parse.

Source: the ABC standard 2.1, section 4. Voices (V:, &) are refused; the first voice is not the
tune.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import msgspec

from openledger.core.errors import InvalidInputError
from openledger.datanet.abc_notation.header import (
    FIELD,
    default_unit,
    is_compound,
    read_metre,
    read_unit,
    without_comment,
)


class Note(msgspec.Struct, frozen=True):
    """One note, the first note of a chord, or a rest."""

    step: int | None  # diatonic steps above middle C; None for a rest
    accidental: str  # "", "^", "_", "=" or doubled
    length: Fraction  # in whole notes


class Bar(msgspec.Struct, frozen=True):
    """What stands between two bar lines."""

    notes: tuple[Note, ...]
    metre: Fraction | None  # the length a full bar has here, in whole notes
    starts_section: bool  # after the start, a repeat sign, a double bar or a numbered ending
    ends_section: bool

    @property
    def length(self) -> Fraction:
        """In whole notes."""
        return sum((note.length for note in self.notes), Fraction(0))


class Tune(msgspec.Struct, frozen=True):
    """One parsed tune."""

    titles: tuple[str, ...]
    key: str
    bars: tuple[Bar, ...]

    @property
    def notes(self) -> list[Note]:
        """All notes and rests in written order; repeats are not played out."""
        return [note for bar in self.bars for note in bar.notes]


def split_tunes(text: str) -> list[str]:
    """The tunes of a tune book, each from its X: line on; text before the first is left out."""
    return [part.strip() for part in _TUNE_START.split(text)[1:]]


def parse(text: str) -> Tune:
    """Read one tune.

    Raises:
        InvalidInputError: a header field is missing or wrong, the music holds characters that
            ABC does not know, or there is no note.
    """
    reader = _Reader()
    lines = text.strip().splitlines()
    body = _read_header(reader, lines)
    for number in range(body, len(lines)):
        _read_line(reader, lines[number], number + 1)
    reader.close(ends_section=True)
    if not any(note.step is not None for bar in reader.bars for note in bar.notes):
        raise InvalidInputError("the tune has no notes: write some below its K: line")
    return Tune(tuple(reader.titles), reader.key, tuple(reader.bars))


_TUNE_START = re.compile(r"(?m)^(?=X:)")
# Bounded, so that no text can ask for an endless note.
_LENGTH = r"\d{0,3}(?:/\d{1,3}|/{0,4})"
_NOTE = rf"(?:\^{{1,2}}|_{{1,2}}|=)?[A-Ga-g][,']{{0,4}}{_LENGTH}"
_TOKEN = re.compile(
    rf"""
    (?P<silent> [\s`\\*$)]+ | y\d* | "[^"]*" | ![A-Za-z0-9.+<>()]+! | ! | \((?!\d) )
  | (?P<inline> \[[A-Za-z]:[^\]]*\] )
  | (?P<bar> \[\|[|\]:]* | [:.]?:*\|[|\]:]*\d?[\d,.-]* | :{{2,}}\d? | \[\d[\d,.-]* | \[?"[^"]*"\] )
  | (?P<grace> \{{/?(?:{_NOTE}|[\s()>.~HJKLMOPRSTUkuv])*\}} )
  | (?P<tuplet> \((?P<count>\d)(?::(?P<time>\d?)(?::(?P<span>\d?))?)? )
  | (?P<decoration> [.~HJKLMOPRSTUkuv] )
  | (?P<chord> \[(?:\s|[.~HJKLMOPRSTUkuv()-]|"[^"]*"|{_NOTE})+\](?P<chord_length>{_LENGTH}) )
  | (?P<note> {_NOTE} )
  | (?P<rest> [zx]{_LENGTH} )
  | (?P<bars_rest> Z\d{{0,2}} )
  | (?P<tie> - )
  | (?P<broken> >{{1,3}} | <{{1,3}} )
    """,
    re.VERBOSE,
)
_ONE_NOTE = re.compile(
    rf"(?P<accidental>[\^_=]*)(?P<letter>[A-Ga-g])(?P<octave>[,']*)(?P<length>{_LENGTH})"
)
_BARS_THAT_BOUND = re.compile(r"[:\[\]\d\"]|\|\|")  # repeat, double bar, numbered ending
_STEPS = "CDEFGABcdefgab"
_STEPS_IN_OCTAVE = 7
_TUPLET_TIME = {2: 3, 3: 2, 4: 3, 6: 2, 8: 3}  # others take the time of three or two beats


@dataclass
class _Reader:
    """What has been read so far, and what the next note depends on."""

    titles: list[str] = field(default_factory=list)
    key: str = ""
    metre: Fraction | None = None
    unit: Fraction | None = None
    compound: bool = False
    bars: list[Bar] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    starts_section: bool = True
    tuplet_factor: Fraction = Fraction(1)
    tuplet_left: int = 0
    next_factor: Fraction = Fraction(1)  # what a broken rhythm leaves to the next note

    def close(self, *, ends_section: bool) -> None:
        """End the bar; a bar line without notes before it only marks a border."""
        if self.notes:
            bar = Bar(tuple(self.notes), self.metre, self.starts_section, ends_section)
            self.bars.append(bar)
            self.notes = []
            self.starts_section = ends_section
        elif ends_section:
            self.starts_section = True
            if self.bars:
                self.bars[-1] = msgspec.structs.replace(self.bars[-1], ends_section=True)

    def add(self, step: int | None, accidental: str, length: Fraction) -> None:
        """Append a note or rest whose written length is `length` units."""
        unit = self.unit or default_unit(self.metre)
        if self.tuplet_left and step is not None:
            length *= self.tuplet_factor
        self.tuplet_left = max(self.tuplet_left - 1, 0)
        self.notes.append(Note(step, accidental, length * self.next_factor * unit))
        self.next_factor = Fraction(1)

    def change(self, name: str, value: str) -> None:
        """Apply a field; those that do not touch the music are only accepted."""
        match name:
            case "T":
                self.titles.append(without_comment(value))
            case "K":
                self.key = without_comment(value)
            case "M":
                self.metre, self.compound = read_metre(value), is_compound(value)
            case "L":
                self.unit = read_unit(value)
            case "V":
                raise InvalidInputError("the tune has several voices: give one tune for each")
            case _:
                pass


def _read_header(reader: _Reader, lines: list[str]) -> int:
    """Read fields up to K:; returns the index of the first line of music."""
    for index, line in enumerate(lines):
        if line.startswith("%") or not line.strip():
            continue
        match = FIELD.fullmatch(line)
        if match is None:
            raise InvalidInputError(f"line {index + 1} is no header field: {line[:40]!r}")
        reader.change(match["name"], match["value"])
        if match["name"] == "K":
            return index + 1
    raise InvalidInputError("the tune has no K: line, which ends the header")


def _read_line(reader: _Reader, line: str, number: int) -> None:
    match = FIELD.fullmatch(line)
    if match is not None:
        reader.change(match["name"], match["value"])
        return
    for token in _tokens(line.partition("%")[0], number):
        _read_token(reader, token, number)


def _tokens(music: str, number: int) -> Iterator[re.Match[str]]:
    position = 0
    while position < len(music):
        token = _TOKEN.match(music, position)
        if token is None:
            here = music[position : position + 12]
            raise InvalidInputError(f"line {number} holds what ABC does not know: {here!r}")
        yield token
        position = token.end()


def _read_token(reader: _Reader, token: re.Match[str], number: int) -> None:
    match token.lastgroup:
        case "bar":
            reader.close(ends_section=_BARS_THAT_BOUND.search(token.group()) is not None)
        case "inline":
            name, _, value = token.group()[1:-1].partition(":")
            reader.change(name, value)
        case "note":
            _add_note(reader, token.group(), Fraction(1))
        case _:
            _read_modifier(reader, token, number)


def _read_modifier(reader: _Reader, token: re.Match[str], number: int) -> None:
    if token["chord"]:
        _add_note(reader, token["chord"], _length(token["chord_length"]))
    elif token["rest"]:
        reader.add(None, "", _length(token["rest"][1:]))
    elif token["bars_rest"]:
        _add_bars_of_rest(reader, int(token["bars_rest"][1:] or 1))
    elif token["tuplet"]:
        _start_tuplet(reader, token)
    elif token["broken"]:
        _break_rhythm(reader, token["broken"], number)


def _add_note(reader: _Reader, text: str, factor: Fraction) -> None:
    match = _ONE_NOTE.search(text)  # of a chord the first note, which stands for it
    if match is None:
        raise InvalidInputError(f"the chord {text!r} holds no note")
    octave = match["octave"].count("'") - match["octave"].count(",")
    step = _STEPS.index(match["letter"]) + _STEPS_IN_OCTAVE * octave
    reader.add(step, match["accidental"], _length(match["length"]) * factor)


def _add_bars_of_rest(reader: _Reader, count: int) -> None:
    for index in range(count):
        if index:
            reader.close(ends_section=False)
        reader.notes.append(Note(None, "", reader.metre or Fraction(1)))


def _start_tuplet(reader: _Reader, token: re.Match[str]) -> None:
    count = int(token["count"])
    time = int(token["time"] or _TUPLET_TIME.get(count, 3 if reader.compound else 2))
    reader.tuplet_factor = Fraction(time, count or 1)
    reader.tuplet_left = int(token["span"] or count)


def _break_rhythm(reader: _Reader, sign: str, number: int) -> None:
    if not reader.notes:
        raise InvalidInputError(f"line {number} has {sign} without a note before it in its bar")
    short = Fraction(1, 2 ** len(sign))
    long = 2 - short
    before, after = (long, short) if sign[0] == ">" else (short, long)
    last = reader.notes[-1]
    reader.notes[-1] = msgspec.structs.replace(last, length=last.length * before)
    reader.next_factor = after


def _length(text: str) -> Fraction:
    over, slash, under = text.partition("/")
    whole = Fraction(int(over or 1))
    if not slash:
        return whole
    if under.isdigit():
        return whole / max(int(under), 1)
    halvings = len(under) + 1  # "/" halves, "//" quarters
    return whole / Fraction(2**halvings)
