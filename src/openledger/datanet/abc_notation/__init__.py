"""Read tunes in ABC notation and score them: do they parse, do bars sum, are they copies."""

from openledger.datanet.abc_notation.bars import share_of_full_bars
from openledger.datanet.abc_notation.copying import MelodyIndex, SharedRun, melody
from openledger.datanet.abc_notation.tune import Bar, Note, Tune, parse, split_tunes

__all__ = [
    "Bar",
    "MelodyIndex",
    "Note",
    "SharedRun",
    "Tune",
    "melody",
    "parse",
    "share_of_full_bars",
    "split_tunes",
]
