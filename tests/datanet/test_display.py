import pytest

from openledger.datanet.display import may_be_shown


@pytest.mark.parametrize(
    "licence", ["CC0-1.0", "MIT OR LicenseRef-mine", "GPL-2.0-or-later AND BSD-3-Clause"]
)
def test_a_licence_that_lets_anyone_pass_the_text_on_shows_it(licence: str) -> None:
    assert may_be_shown(licence)


@pytest.mark.parametrize(
    "licence",
    [
        "",
        "LicenseRef-public-domain-tune-encoded-with-permission",
        "CC-BY-NC-ND-4.0",
        "MIT AND LicenseRef-mine",
        "(MIT OR CC0-1.0) AND LicenseRef-mine",
        "mit",
    ],
)
def test_any_other_hides_it(licence: str) -> None:
    assert not may_be_shown(licence)
