from hypothesis import given, settings
from hypothesis import strategies as st

from openledger.datanet.clean import Config, Drop, Reason, clean
from openledger.datanet.extract import Document
from openledger.datanet.sources import tiny

NOTICE = "Written by one person who allows everyone to copy this page freely."


def documents(*texts: str) -> list[Document]:
    return [Document(f"t{i}", text, "MIT", f"k{i}", f"o{i}") for i, text in enumerate(texts)]


def cleaned_text(text: str) -> str:
    return clean(documents(text), Config()).documents[0].text


def test_unicode_blanks_and_control_characters_are_put_in_order() -> None:
    assert cleaned_text("\ufeffe\u0301t\u00a0é \t\r\n\n\n\nfin\x07\u200b  ") == "ét é\n\nfin"


def test_indentation_stays() -> None:
    assert cleaned_text("def f():\n    return 1") == "def f():\n    return 1"


def test_mojibake_is_repaired_and_right_text_left_alone() -> None:
    repaired = clean(documents("dÃ©jÃ\u00a0 vu â€œyesâ€\u009d"), Config())

    assert repaired.documents[0].text.startswith("déjà vu")
    assert repaired.drops == (Drop(Reason.MOJIBAKE_REPAIRED, 1),)
    assert clean(documents("Âge, Ãfrica, déjà — “vu”"), Config()).drops == ()


def test_removed_control_characters_are_counted() -> None:
    assert clean(documents("a\x00b\x01"), Config()).drops == (Drop(Reason.CONTROL_CHARACTERS, 2),)


def test_empty_documents_are_left_out_and_counted() -> None:
    result = clean(documents("\x00 \n", "text"), Config())

    assert [document.text for document in result.documents] == ["text"]
    assert Drop(Reason.EMPTY, 1) in result.drops


def test_titles_are_normalised() -> None:
    document = Document("e\u0301 \n t", "text", "MIT", "k", "o")

    assert clean([document], Config()).documents[0].title == "é t"


def test_prose_repeated_over_documents_is_dropped_as_paragraph_and_as_line() -> None:
    result = clean(
        documents(
            f"First page.\n\n{NOTICE}",
            f"Second page.\n\n{NOTICE.upper()}\n\nIts end.",
            f"Third page.\n{NOTICE}",
            NOTICE,
        ),
        Config(),
    )

    assert [d.text for d in result.documents] == [
        "First page.",
        "Second page.\n\nIts end.",
        "Third page.",
    ]
    assert result.drops == (Drop(Reason.BOILERPLATE, 4), Drop(Reason.EMPTY, 1))


def test_prose_in_few_documents_is_no_boilerplate() -> None:
    assert clean(documents(NOTICE, NOTICE), Config()).drops == ()
    rare = documents(NOTICE, NOTICE, NOTICE, *(f"page {i}" for i in range(20)))
    assert clean(rare, Config()).drops == ()


def test_headings_music_and_short_lines_may_repeat() -> None:
    line = "X:1\nM:6/8\nK:G\nGABc dBAG | BAGF EFGA | BAGA BAGA |\n\nSEE ALSO"

    assert clean(documents(*[line] * 10), Config()).drops == ()


def test_the_tiny_sample_is_clean() -> None:
    for contributor in tiny.contributors():
        assert clean(contributor.documents, Config()).documents == contributor.documents


@settings(deadline=None)
@given(st.lists(st.text(max_size=40), max_size=6))
def test_cleaning_twice_changes_nothing(texts: list[str]) -> None:
    once = clean(documents(*texts), Config()).documents

    assert clean(once, Config()).documents == once
