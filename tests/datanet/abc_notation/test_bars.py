import pytest

from openledger.datanet.abc_notation import parse, share_of_full_bars

HEAD = "X:1\nM:4/4\nL:1/4\nK:C\n"


@pytest.mark.parametrize(
    ("music", "share"),
    [
        ("CDEF|GABc|]", 1.0),
        ("CDEF|GAB|c4|]", 2 / 3),
        ("C|DEFG|ABc|]", 1.0),  # a pickup, and a last bar short by as much
        ("C|DEFG|AB|]", 0.5),  # short by another length than the pickup
        ("CDEFG|CDEF|", 0.5),
        ("G|CDEF|GAB:|:c|CDEF|GAB:|", 1.0),
        ("G|CDEF|1 GAB:|2 GABc|]", 1.0),
        ("C|", 0.0),
        ("C:|D:|E:|CDEF|", 0.25),  # short sections are no pickups
    ],
)
def test_bars_are_full_when_they_sum_to_the_metre(music: str, share: float) -> None:
    assert share_of_full_bars(parse(HEAD + music)) == pytest.approx(share)


def test_only_pickups_are_no_full_bars() -> None:
    assert share_of_full_bars(parse(HEAD + "C")) == 0.0
    assert share_of_full_bars(parse(HEAD + "C|\nM:none\nD|")) == 0.0


def test_free_metre_has_no_full_bars() -> None:
    assert share_of_full_bars(parse("X:1\nM:none\nK:C\nABC|D|")) is None
