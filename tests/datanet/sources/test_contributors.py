from openledger.datanet.extract import Document
from openledger.datanet.sources.contributors import by_contributor


def document(title: str, contributor: str) -> Document:
    return Document(title, title, "MIT", title, title, contributor)


def test_documents_are_grouped_by_name_and_unnamed_ones_left_out() -> None:
    groups = by_contributor(
        [document("a", "Zoe"), document("b", "Ann"), document("c", ""), document("d", "Zoe")]
    )

    assert [(one.name, [d.title for d in one.documents]) for one in groups] == [
        ("Zoe", ["a", "d"]),
        ("Ann", ["b"]),
    ]


def test_a_contributor_s_file_is_named_after_them() -> None:
    (one,) = by_contributor([document("a", "A. B/C D")])

    assert one.as_file().name == "a.-b-c-d.jsonl"
