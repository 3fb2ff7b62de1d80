import msgspec
import pytest

from openledger.core.encoding import decode, encode
from openledger.core.errors import InvalidInputError, NotAllowedError
from openledger.datanet.rules import Rules, Withdrawal, check_licence, check_rules, rules_digest
from openledger.datanet.sources import breton, folk_music, linux_manual

SOURCES = (folk_music.RULES, linux_manual.RULES, breton.RULES)
RULES = Rules("folk-music", "Tunes that people transcribed.", ("CC0-1.0", "MIT", "GPL-2.0-only"))


def test_the_digest_covers_every_field() -> None:
    changes: list[dict[str, object]] = [
        {"name": "folk"},
        {"description": "x"},
        {"licences": ("MIT",)},
        {"withdrawal": Withdrawal.KEEP_SERVING},
        {"withdrawal_days": 30},
        {"data_floor_bps": 1},
    ]
    digests = {rules_digest(msgspec.structs.replace(RULES, **change)) for change in changes}

    assert len(digests | {rules_digest(RULES)}) == 7


@pytest.mark.parametrize("rules", SOURCES, ids=lambda rules: rules.name)
def test_the_rules_of_the_real_sources_make_sense(rules: Rules) -> None:
    check_rules(rules)


def test_rules_survive_encoding() -> None:
    assert decode(encode(RULES), Rules) == RULES


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "Folk Music"}, "Datanet name"),
        ({"name": ""}, "Datanet name"),
        ({"name": "x" * 32}, "Datanet name"),
        ({"description": " "}, "description"),
        ({"description": "x" * 2001}, "description"),
        ({"licences": ()}, "SPDX"),
        ({"licences": ("no licence!",)}, "SPDX"),
        ({"withdrawal_days": -1}, "withdrawal days"),
        ({"data_floor_bps": 10_001}, "data floor"),
    ],
)
def test_rules_that_make_no_sense_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        check_rules(msgspec.structs.replace(RULES, **change))


@pytest.mark.parametrize(
    "licence", ["MIT", "MIT OR Apache-2.0", "Apache-2.0 OR (MIT AND CC0-1.0)", "MIT AND CC0-1.0"]
)
def test_a_licence_on_the_list_is_allowed(licence: str) -> None:
    check_licence(RULES, licence)


@pytest.mark.parametrize("licence", ["", "Apache-2.0", "MIT AND Apache-2.0", "mit"])
def test_another_licence_is_not_allowed(licence: str) -> None:
    with pytest.raises(NotAllowedError, match="folk-music takes"):
        check_licence(RULES, licence)
