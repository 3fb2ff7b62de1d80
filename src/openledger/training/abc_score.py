"""What a music model can do, beside its loss: are its answers tunes, and are they its own?"""

from collections.abc import Sequence

import msgspec

from openledger.core.errors import InvalidInputError
from openledger.datanet.abc_notation import MelodyIndex, Tune, parse, share_of_full_bars

_COPIED_FROM = 0.5  # of a tune's notes in one run that also stands in a training tune


class AbcScore(msgspec.Struct, frozen=True):
    """Shares between 0 and 1 over the generated tunes."""

    tunes: int
    parsed: float  # of all tunes
    full_bars: float  # bars that sum to the metre, mean over tunes that parse and have a metre
    copied: float  # of the tunes that parse


def score_tunes(generated: Sequence[str], training: Sequence[str]) -> AbcScore:
    """Score generated tunes, each with its header, against the tunes trained on.

    Raises:
        InvalidInputError: nothing was generated.
    """
    if not generated:
        raise InvalidInputError("there is no tune to score")
    tunes = [tune for tune in map(_parsed, generated) if tune is not None]
    bars = [share for share in map(share_of_full_bars, tunes) if share is not None]
    known = MelodyIndex(tune for tune in map(_parsed, training) if tune is not None)
    return AbcScore(
        tunes=len(generated),
        parsed=len(tunes) / len(generated),
        full_bars=sum(bars) / len(bars) if bars else 0.0,
        copied=known.share_copied(tunes, _COPIED_FROM),
    )


def _parsed(text: str) -> Tune | None:
    try:
        return parse(text)
    except InvalidInputError:
        return None
