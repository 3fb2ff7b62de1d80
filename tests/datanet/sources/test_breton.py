import pytest

from openledger.core.errors import InvalidInputError
from openledger.datanet.sources.breton import LICENCE, Entry, entries, read
from tests.datanet.sources.packages import deb, gz

DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
HEADING = "00-database\ncompiled by: Ann Lee\nMaintainer: Bo Li\nContributor: Cy Ro\nChangelog:\n"


def number(value: int) -> str:
    return (number(value // 64) if value >= 64 else "") + DIGITS[value % 64]


def dictionary(heading: str, *texts: str) -> tuple[str, str]:
    body, lines = heading, [f"00databaseinfo\tA\t{number(len(heading))}"]
    for text in texts:
        place = number(len(body.encode()))
        lines.append(f"word\t{place}\t{number(len(text.encode()))}")
        body += text
    return body, "\n".join(lines)


def package(pair: str, heading: str, *texts: str) -> bytes:
    body, index = dictionary(heading, *texts)
    stem = f"usr/share/dictd/freedict-{pair}"
    return deb({f"{stem}.dict.dz": gz(body), f"{stem}.index": index.encode()})


FRENCH = package("fra-bre", HEADING, " (se v.) vanter /vɑ̃te/ <v>\nbugadiñ v /x/\n")
BRETON = package(
    "bre-fra",
    HEADING,
    "bugadiñ <v>\nvanter (se v.), faire le glorieux\n",
    'bugel <g> (bugale)\n1. enfant\n      "bugel-saout"  - petit pâtre\n',
    "(only brackets)\nx\n",
    "no definition\n",
    "x" * 81 + "\nlong\n",
)


def test_entries_become_questions_with_answers() -> None:
    ann, bo = read(FRENCH, BRETON)

    assert [d.text for d in ann.documents] == [
        "Traduis en breton : vanter\nbugadiñ v",
        "Traduis en français : bugadiñ\nvanter (se v.), faire le glorieux",
    ]
    assert bo.documents[0].text == (
        'Traduis en français : bugel\n1. enfant\n"bugel-saout" - petit pâtre'
    )
    assert ann.documents[0].licence == LICENCE
    assert ann.documents[1].origin == "freedict-bre-fra#0"


def test_mirrored_entries_share_the_french_word_as_key() -> None:
    ann, bo = read(FRENCH, BRETON)

    assert [d.key for d in ann.documents] == ["vanter", "vanter"]
    assert bo.documents[0].key == "enfant"


def test_entries_with_examples_are_the_maintainers() -> None:
    ann, bo = read(FRENCH, BRETON)

    assert (ann.name, bo.name) == ("Ann Lee", "Bo Li")
    assert ann.documents[0].others == ("Bo Li", "Cy Ro")
    assert bo.documents[0].others == ("Ann Lee", "Cy Ro")


def test_a_dictionary_that_names_nobody_is_the_projects() -> None:
    (project,) = read(
        package("fra-bre", "x\n", "un\nunan\n"), package("bre-fra", "x\n", 'a\n"b"\n')
    )

    assert project.name == "FreeDict contributors"
    assert len(project.documents) == 2


def test_entries_stand_in_the_order_of_the_dictionary_each_once() -> None:
    body, index = dictionary("", "a\nun\n", "b\ndeux\n")

    assert list(entries(body, index + "\n" + index)) == [
        Entry("a", "un", has_examples=False),
        Entry("b", "deux", has_examples=False),
    ]


def test_a_wrong_index_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="shorter than its index"):
        list(entries("a\nb\n", "a\tA\tBA"))
    with pytest.raises(InvalidInputError, match="no number"):
        list(entries("a\nb\n", "a\tA\t?"))


def test_another_package_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="no bre-fra dictionary"):
        read(FRENCH, FRENCH)
