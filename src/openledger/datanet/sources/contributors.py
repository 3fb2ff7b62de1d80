"""Documents grouped by the people whom their source names.

They did not contribute themselves: what is imported for them is marked "on behalf".
"""

from collections.abc import Iterable

import msgspec

from openledger.datanet.extract import Document, File, write_jsonl


class SourceContributor(msgspec.Struct, frozen=True):
    """One named person or body, and what the source holds of theirs."""

    name: str
    documents: tuple[Document, ...]

    def as_file(self) -> File:
        """Their documents as one JSONL file, contributed like anyone's."""
        stem = "-".join(self.name.lower().replace("/", " ").split())
        return File(f"{stem}.jsonl", write_jsonl(self.documents))


def by_contributor(documents: Iterable[Document]) -> tuple[SourceContributor, ...]:
    """Group by contributor, most documents first, then by name; unnamed documents are left out."""
    groups: dict[str, list[Document]] = {}
    for document in documents:
        if document.contributor:
            groups.setdefault(document.contributor, []).append(document)
    people = (SourceContributor(name, tuple(group)) for name, group in groups.items())
    return tuple(sorted(people, key=lambda one: (-len(one.documents), one.name)))
