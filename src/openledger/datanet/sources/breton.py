"""French–Breton and Breton–French entries from Debian's two FreeDict packages.

Each dictionary names who compiled, maintains and helped it in its own heading. The entries' author
is the compiler; entries with usage examples are credited to the maintainer, whose change log says
that he added these. Mirrored entries share a key: the French word.
"""

import re
from collections.abc import Iterator

import msgspec

from openledger.core.errors import InvalidInputError
from openledger.datanet.extract import Document
from openledger.datanet.rules import Rules
from openledger.datanet.sources.archives import gunzip, read_deb
from openledger.datanet.sources.contributors import SourceContributor, by_contributor
from openledger.datanet.text.titles import title_key

LICENCE = "GPL-2.0-or-later"
RULES = Rules(
    name="breton",
    description="Entries of the French–Breton and Breton–French dictionaries of FreeDict.",
    licences=(LICENCE,),
)


class Entry(msgspec.Struct, frozen=True):
    """One dictionary entry."""

    headword: str
    definition: str
    has_examples: bool


def read(french_breton: bytes, breton_french: bytes) -> tuple[SourceContributor, ...]:
    """All entries of the two Debian packages, grouped by author.

    Raises:
        InvalidInputError: a package holds no such dictionary.
    """
    documents = [
        *_documents(french_breton, "fra-bre", "Traduis en breton : "),
        *_documents(breton_french, "bre-fra", "Traduis en français : "),
    ]
    return by_contributor(documents)


def entries(dictionary: str, index: str) -> Iterator[Entry]:
    """Entries of a dictd dictionary, by its index, in the order they stand in.

    Raises:
        InvalidInputError: the index points outside the dictionary.
    """
    raw = dictionary.encode()
    places: dict[int, int] = {}
    for line in index.splitlines():
        word, _, place = line.partition("\t")
        if not word.startswith("00database"):
            start, _, size = place.partition("\t")
            places[_number(start)] = _number(size)
    for offset, length in sorted(places.items()):
        if offset + length > len(raw):
            raise InvalidInputError("the dictionary is shorter than its index says")
        entry = _entry(raw[offset : offset + length].decode("utf-8", "replace"))
        if entry is not None:
            yield entry


_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_PRONUNCIATION = re.compile(r"\s*/[^/\n]*/")
_GRAMMAR = re.compile(r"\s*<[^>]*>")
_BRACKETS = re.compile(r"\s*[(\[][^)\]]*[)\]]?")
_ROLE = re.compile(r"(?mi)^\s*(compiled by|maintainer|contributor):[ \t]*(.+)$")
_LONGEST_HEADWORD = 80


def _documents(package: bytes, pair: str, question: str) -> Iterator[Document]:
    stem = f"usr/share/dictd/freedict-{pair}"
    files = read_deb(package, stem)
    if f"{stem}.dict.dz" not in files or f"{stem}.index" not in files:
        raise InvalidInputError(f"this package holds no {pair} dictionary: give dict-freedict-…")
    dictionary = gunzip(files[f"{stem}.dict.dz"])
    people = _people(dictionary)
    for number, entry in enumerate(entries(dictionary, files[f"{stem}.index"].decode())):
        authors = _author_first(people, entry)
        french = entry.headword if pair == "fra-bre" else _first_gloss(entry.definition)
        yield Document(
            title=entry.headword,
            text=f"{question}{entry.headword}\n{entry.definition}",
            licence=LICENCE,
            key=title_key(_BRACKETS.sub("", french)),
            origin=f"freedict-{pair}#{number}",
            contributor=authors[0],
            others=authors[1:],
        )


def _people(dictionary: str) -> tuple[str, ...]:
    """Compiler, maintainer, helpers, as the heading names them; FreeDict when it names nobody."""
    heading = dictionary.partition("Changelog:")[0]
    names = [name.strip() for _, name in _ROLE.findall(heading)]
    return tuple(dict.fromkeys(names)) or ("FreeDict contributors",)


def _author_first(people: tuple[str, ...], entry: Entry) -> tuple[str, ...]:
    if entry.has_examples and len(people) > 1:
        return (people[1], people[0], *people[2:])
    return people


def _entry(text: str) -> Entry | None:
    first, _, rest = _PRONUNCIATION.sub("", text).partition("\n")
    headword = " ".join(_BRACKETS.sub("", _GRAMMAR.sub("", first)).split())
    lines = [" ".join(line.split()) for line in rest.splitlines() if line.strip()]
    if not headword or len(headword) > _LONGEST_HEADWORD or not lines:
        return None
    has_examples = any(line.startswith('"') for line in lines)
    return Entry(headword, "\n".join(lines), has_examples)


def _first_gloss(definition: str) -> str:
    gloss = re.split(r"[,;\n]", _BRACKETS.sub("", definition), maxsplit=1)[0]
    return re.sub(r"^\d+\.\s*", "", gloss)


def _number(digits: str) -> int:
    """A dictd number: base 64, most significant digit first."""
    value = 0
    for digit in digits.strip():
        place = _DIGITS.find(digit)
        if place < 0:
            raise InvalidInputError(f"{digits!r} is no number of a dictd index")
        value = value * 64 + place
    return value
