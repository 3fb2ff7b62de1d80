"""Do the bars of a tune sum to its metre?

A section may begin with a pickup, and the bar that ends a section is then short by as much; both
are right. Any other bar that is too short or too long is wrong.
"""

from fractions import Fraction

from openledger.datanet.abc_notation.tune import Bar, Tune


def share_of_full_bars(tune: Tune) -> float | None:
    """Bars that sum to the metre, over all bars that should, 0 to 1.

    Pickups are counted on neither side. None when the tune is in free metre.
    """
    bars = [bar for bar in tune.bars if bar.metre is not None]
    if not bars:
        return None
    pickups = {bar.length for bar in bars if _is_pickup(bar)}
    counted = [bar for bar in bars if not _is_pickup(bar)]
    full = sum(_is_full(bar, pickups) for bar in counted)
    return full / len(counted) if counted else 0.0


def _is_pickup(bar: Bar) -> bool:
    is_short = bar.metre is not None and bar.length < bar.metre
    return is_short and bar.starts_section and not bar.ends_section


def _is_full(bar: Bar, pickups: set[Fraction]) -> bool:
    metre = bar.metre or Fraction(0)
    return bar.length == metre or (bar.ends_section and metre - bar.length in pickups)
