"""The fields of an ABC tune: metre, unit note length and which lines are fields at all.

Source: the ABC standard 2.1, sections 3.1.6 (M:), 3.1.7 (L:) and 4.8 (metre-less tunes).
"""

import re
from fractions import Fraction

from openledger.core.errors import InvalidInputError

# "E:|" is the note E before a repeat sign.
FIELD = re.compile(r"(?P<name>[A-Za-z]):(?![|:])[ \t]*(?P<value>.*)")

_METRE = re.compile(r"\(?(?P<beats>\d{1,2}(?:\+\d{1,2})*)\)?(?:/(?P<unit>\d{1,2}))?")
_UNIT = re.compile(r"(?P<over>\d{1,2})(?:/(?P<under>\d{1,3}))?")
_NAMED_METRES = {"C": Fraction(1), "C|": Fraction(1), "NONE": None, "": None}
_SHORT_METRE = Fraction(3, 4)  # below it, a tune without L: counts in sixteenths


def read_metre(value: str) -> Fraction | None:
    """Length of a full bar in whole notes; None when the tune is in free metre.

    Raises:
        InvalidInputError: it is no metre.
    """
    text = without_comment(value)
    if text.upper() in _NAMED_METRES:
        return _NAMED_METRES[text.upper()]
    match = _METRE.fullmatch(text)
    unit = int(match["unit"] or 4) if match else 0
    beats = sum(int(part) for part in match["beats"].split("+")) if match else 0
    if not unit or not beats:
        raise InvalidInputError(f"M:{value} is not a metre: write one like M:6/8")
    return Fraction(beats, unit)


def is_compound(value: str) -> bool:
    """Whether beats divide into three (6/8, 9/8, 12/8), which sets the default tuplets."""
    return without_comment(value) in {"6/8", "9/8", "12/8", "6/4", "9/4", "3/8"}


def read_unit(value: str) -> Fraction:
    """The length of a note that carries no number, in whole notes.

    Raises:
        InvalidInputError: it is no note length.
    """
    match = _UNIT.fullmatch(without_comment(value))
    under = int(match["under"] or 1) if match else 0
    if match is None or under == 0:
        raise InvalidInputError(f"L:{value} is not a note length: write one like L:1/8")
    return Fraction(int(match["over"]), under)


def default_unit(metre: Fraction | None) -> Fraction:
    """The unit note length of a tune that has no L: field."""
    is_short = metre is not None and metre < _SHORT_METRE
    return Fraction(1, 16) if is_short else Fraction(1, 8)


def without_comment(value: str) -> str:
    """A field's value up to its comment."""
    return value.partition("%")[0].strip()
