"""The Linux manual from Debian's `manpages` and `manpages-dev`, page by page with its authors.

Each page states its copyright holders in comments and its licence as an SPDX tag. The first holder
named is the contributor, the others are listed; pages without holder or tag are left out.
"""

import re
from collections.abc import Iterator, Sequence

from openledger.core.errors import InvalidInputError
from openledger.datanet.extract import Document
from openledger.datanet.rules import Rules
from openledger.datanet.sources.archives import gunzip, read_deb
from openledger.datanet.sources.contributors import SourceContributor, by_contributor
from openledger.datanet.sources.roff import render

LICENCES = (
    "Linux-man-pages-copyleft",
    "GPL-1.0-or-later",
    "GPL-2.0-only",
    "GPL-2.0-or-later",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSD-4-Clause-UC",
    "MIT",
)
RULES = Rules(
    name="linux-manual",
    description="Pages of the Linux manual, sections 1 to 8, by their copyright holders.",
    licences=LICENCES,
)


def read(packages: Sequence[bytes]) -> tuple[SourceContributor, ...]:
    """All pages of these Debian packages with a named holder and a licence, grouped by holder.

    Raises:
        InvalidInputError: they hold no manual pages.
    """
    pages: dict[str, bytes] = {}
    for package in packages:
        pages |= read_deb(package, _FOLDER)
    if not pages:
        raise InvalidInputError("these packages hold no manual pages: give manpages, manpages-dev")
    return by_contributor(_documents(pages))


def holders(source: str) -> tuple[str, ...]:
    """The copyright holders that a page's comments name, in order, each once."""
    comments = [match[1] for match in _COMMENT.finditer(source)]
    names: list[str] = []
    for index, comment in enumerate(comments):
        match = _COPYRIGHT.search(comment)
        if match is None:
            continue
        claim = _without_years(match["holders"])
        if not claim and index + 1 < len(comments):
            claim = _without_years(comments[index + 1])  # years alone: the name is below
        names += _names(claim)
    return tuple(dict.fromkeys(names))


_FOLDER = "usr/share/man/man"
_FEWEST_CHARACTERS = 300  # shorter pages only point to others
_COMMENT = re.compile(r"(?m)^[.']?\\\"[ \t]*(.*)$")
_COPYRIGHT = re.compile(
    r"(?:copyright|\(c\)|©)\s*(?:(?:\(c\)|©|\\\(co|copyright|:|by)\s*)*(?P<holders>.*)",
    re.IGNORECASE,
)
_SPDX = re.compile(r"SPDX-License-Identifier:\s*([A-Za-z0-9.+-]+)")
_ADDRESS = re.compile(r"<[^>]*>?|\([^)]*\)?|\S+@\S+|\[[^\]]*\]")
_YEARS = re.compile(r"^(?:[\s,;&-]|\d{4}|\bto\b|\bpresent\b|\band\b|\bby\b)+", re.IGNORECASE)
_WRITTEN_BY = re.compile(r"(?P<body>.*?),?\s*written by\s+(?P<person>.*)", re.IGNORECASE)
_TAIL = re.compile(r"\.\s+all rights.*|\s+-\s+.*|,?\s+(?:inc|ltd|corp)\b.*", re.IGNORECASE)
_BETWEEN = re.compile(r"[,;/]|\band\b|&|\bby\b")
_NO_NAME = re.compile(
    r"(?:all rights|inc|ltd|llc|gmbh|l\.p|co|permission|this|portions|the following|see|redistrib"
    r"|derived|based|page|note|some|parts?|and|or|for|under|from|with|holder|notice|original"
    r"|january|february|march|april|may|june|july|august|september|october|november|december"
    r"|jan|feb|mar|apr|jun|jul|aug|sep|oct|nov|dec|mon|tue|wed|thu|fri|sat|sun)\b",
    re.IGNORECASE,
)
_LONGEST_NAME = 60
_ALIASES = {
    "walter harms": "Walter Harms",
    "michael t. kerrisk": "Michael Kerrisk",
    "mtk": "Michael Kerrisk",
    "aeb": "Andries Brouwer",
    "a. e. brouwer": "Andries Brouwer",
    "andries e. brouwer": "Andries Brouwer",
    "the linux foundation": "Linux Foundation",
    "rickard e. faith": "Rik Faith",
    "rik faith": "Rik Faith",
    "free software foundation": "Free Software Foundation",
    "the free software foundation": "Free Software Foundation",
    "the regents of the university of california": "Regents of the University of California",
    "regents of the university of california": "Regents of the University of California",
    "jochen hein": "Jochen Hein",
    "suse labs": "SuSE Labs",
    "red hat": "Red Hat",
    "international business machines": "IBM",
    "international business machines orp": "IBM",
    "ibm corporation": "IBM",
    "james r. van zandt": "Jim Van Zandt",
    "all bpf authors": "BPF authors",
    "suse gmbh nuernberg": "SuSE Labs",
    "waldorf gmbh": "Waldorf GmbH",
}


def _documents(pages: dict[str, bytes]) -> Iterator[Document]:
    for path, raw in sorted(pages.items()):
        source = gunzip(raw)
        people, licence = holders(source), _SPDX.search(source)
        text = "" if source.startswith(".so ") else render(source)
        if not people or licence is None or len(text) < _FEWEST_CHARACTERS:
            continue
        name = path.rpartition("/")[2].removesuffix(".gz")
        stem, _, section = name.rpartition(".")
        yield Document(
            title=f"{stem}({section})",
            text=f"{stem}({section})\n\n{text}",
            licence=licence[1],
            key=stem.lower(),
            origin=path.removeprefix("usr/share/man/"),
            contributor=people[0],
            others=people[1:],
        )


def _without_years(claim: str) -> str:
    return _YEARS.sub("", _ADDRESS.sub(" ", claim).strip()).strip()


def _names(claim: str) -> list[str]:
    claim = _TAIL.sub("", claim)
    written = _WRITTEN_BY.fullmatch(claim)
    parts = [written["person"], written["body"]] if written else [claim]
    names = (_name(piece) for part in parts for piece in _BETWEEN.split(part))
    return [name for name in names if name]


def _name(piece: str) -> str:
    """A cleaned name; empty when this is a date, a legal form or a sentence."""
    plain = " ".join(_YEARS.sub("", piece).replace('"', "").split()).strip(" .:*-")
    known = _ALIASES.get(plain.lower())
    if known is not None:
        return known
    is_name = plain[:1].isupper() and not _NO_NAME.match(plain) and " " in plain
    return plain if is_name and len(plain) < _LONGEST_NAME and not re.search(r"\d", plain) else ""
