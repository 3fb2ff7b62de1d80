"""How much of a tune is copied from others: its longest run of notes that also stands in one.

Notes are compared as steps from one to the next, so transposing, changing lengths, ornaments or
the layout does not hide a copy.
"""

from collections.abc import Iterable
from itertools import pairwise

import msgspec

from openledger.datanet.abc_notation.tune import Tune

_RUN = 8  # steps that must agree before a run is looked at; shorter ones are in every tune


class SharedRun(msgspec.Struct, frozen=True):
    """The longest run of notes that a tune has in common with one indexed tune."""

    notes: int  # 0 when no run is longer than eight steps
    share: float  # of the tune's notes, 0 to 1
    source: int | None  # index of the tune it stands in


def melody(tune: Tune) -> tuple[int, ...]:
    """Diatonic steps from each note to the next, rests left out."""
    steps = [note.step for note in tune.notes if note.step is not None]
    return tuple(after - before for before, after in pairwise(steps))


class MelodyIndex:
    """The melodies of the training tunes, ready to be searched."""

    def __init__(self, tunes: Iterable[Tune]) -> None:
        self._melodies = [melody(tune) for tune in tunes]
        self._places: dict[tuple[int, ...], list[tuple[int, int]]] = {}
        for number, steps in enumerate(self._melodies):
            for start in range(len(steps) - _RUN + 1):
                self._places.setdefault(steps[start : start + _RUN], []).append((number, start))

    def longest_run(self, tune: Tune) -> SharedRun:
        """The longest run of this tune's notes that stands in one indexed tune."""
        steps = melody(tune)
        best, source = 0, None
        for start in range(len(steps) - _RUN + 1):
            for number, place in self._places.get(steps[start : start + _RUN], ()):
                length = _agreement(steps, start, self._melodies[number], place)
                if length > best:
                    best, source = length, number
        notes = best + 1 if best else 0
        return SharedRun(notes, notes / (len(steps) + 1), source)

    def share_copied(self, tunes: Iterable[Tune], from_share: float = 0.5) -> float:
        """The share of tunes of which at least `from_share` is one copied run, 0 to 1."""
        runs = [self.longest_run(tune) for tune in tunes]
        return sum(run.share >= from_share for run in runs) / len(runs) if runs else 0.0


def _agreement(one: tuple[int, ...], start: int, other: tuple[int, ...], place: int) -> int:
    length = _RUN
    limit = min(len(one) - start, len(other) - place)
    while length < limit and one[start + length] == other[place + length]:
        length += 1
    return length
