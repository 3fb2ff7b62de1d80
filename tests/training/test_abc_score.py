import pytest

from openledger.core.errors import InvalidInputError
from openledger.training.abc_score import score_tunes

HEAD = "X:1\nT:A\nM:4/4\nL:1/4\nK:C\n"
KNOWN = HEAD + "CDEF|GABc|cdef|gfed|cBAG|FEDC|"


def test_a_copy_is_found_and_bars_are_counted() -> None:
    new = HEAD + "CGEc|BDFA|CCCC|CC|"

    score = score_tunes([KNOWN, new, "no tune at all"], [KNOWN, "not a tune either"])

    assert score.tunes == 3
    assert score.parsed == pytest.approx(2 / 3)
    assert score.full_bars == pytest.approx((1 + 3 / 4) / 2)
    assert score.copied == 0.5


def test_where_nothing_parses_nothing_is_full_or_copied() -> None:
    score = score_tunes(["words"], [KNOWN])

    assert (score.parsed, score.full_bars, score.copied) == (0.0, 0.0, 0.0)


def test_no_tune_cannot_be_scored() -> None:
    with pytest.raises(InvalidInputError, match="no tune"):
        score_tunes([], [KNOWN])
