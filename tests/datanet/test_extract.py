import pytest

from openledger.core.errors import InvalidInputError
from openledger.datanet.extract import Config, Document, File, extract, write_jsonl
from openledger.datanet.sources import tiny


def read(name: str, text: str) -> tuple[Document, ...]:
    return extract(File(name, text.encode()), "CC0-1.0", Config())


def test_a_text_file_is_one_document_named_after_it() -> None:
    (document,) = read("notes.txt", "Kenavo\n")

    assert document == Document("notes.txt", "Kenavo\n", "CC0-1.0", "notes txt", "notes.txt")


def test_a_markdown_file_is_named_by_its_heading() -> None:
    assert read("a.md", "intro\n# The Title #\ntext")[0].title == "The Title"
    assert read("a.md", "no heading")[0].title == "a.md"


def test_a_tune_book_is_one_document_a_tune() -> None:
    tunes = read("book.abc", "X:1\nT:The Reel\nK:C\nABc\n\nX:2\nK:D\ndef\n")

    assert [tune.title for tune in tunes] == ["The Reel", "X:2"]
    assert [tune.origin for tune in tunes] == ["book.abc#1", "book.abc#2"]
    assert tunes[0].key == "reel"


def test_jsonl_is_one_document_a_line_with_its_own_fields() -> None:
    text = '{"text":"one\\ntwo"}\n\n{"text":"x","title":"T","licence":"MIT","key":"k"}\n{"text":""}'

    one, two, three = read("a.jsonl", text)

    assert (one.title, one.licence, one.origin) == ("one", "CC0-1.0", "a.jsonl#1")
    assert (two.title, two.licence, two.key, two.origin) == ("T", "MIT", "k", "a.jsonl#3")
    assert three.title == "a.jsonl line 4"


def test_documents_survive_being_written_as_jsonl() -> None:
    contributor = tiny.contributors()[0]

    assert extract(contributor.as_file(), "", Config()) == contributor.documents
    assert write_jsonl(()) == b""


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("a.txt", b"", "0 bytes"),
        ("a.txt", b" \n", "only blanks"),
        ("a.txt", b"x" * 101, "more than the limit of 100"),
        ("a.abc", b"no tune", "has no tune"),
        ("a.jsonl", b'{"text":"a"}\nnot json', "line 2 of a.jsonl"),
        ("a.jsonl", b'{"title":"a"}', "line 1 of a.jsonl"),
        ("a.jsonl", b'{"text":"a"}\n' * 3, "3 documents, more than 2"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_the_cure(
    name: str, raw: bytes, message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        extract(File(name, raw), "CC0-1.0", Config(largest_file_bytes=100, most_documents=2))
