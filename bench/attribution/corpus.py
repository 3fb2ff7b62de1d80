"""The texts of the tiny suite: pages of the Linux manual, cut into pieces of one length.

The base model learns to read from the pages on calls and functions (sections 2 and 3). Datanets
are drawn from all other sections, of which it has seen nothing: specialised data, which teach it
something. What is asked outside of them comes from pages on calls and functions that were kept
back: near, but nothing that a Datanet helps with. A contributor is one page, whose pieces are its
documents: pieces of one page tell of one thing, so that leaving a contributor out leaves a mark.
"""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np

from openledger.datanet.extract import Document
from openledger.datanet.sources import linux_manual
from openledger.flows.data.obtain import obtain
from openledger.lm.tokenizer import Tokenizer

PIECE_TOKENS = 64
_READ = "23"  # the sections of pages on calls and functions
_KEPT_BACK = 8  # one page of so many is kept from the base
_BOILERPLATE = ("SEE ALSO", "COLOPHON", "STANDARDS", "LIBRARY")  # sections that all pages have


Piece = tuple[int, ...]


class Page(msgspec.Struct, frozen=True):
    """One page, without what every page has."""

    name: str
    text: str


class Pages(msgspec.Struct, frozen=True):
    """All pages, in three parts."""

    reading: tuple[Page, ...]  # for the base model
    pool: tuple[Page, ...]  # for Datanets
    outside: tuple[Page, ...]  # what nobody brought

    @property
    def everything(self) -> list[Page]:
        """Of all parts, by name."""
        pages = (*self.reading, *self.pool, *self.outside)
        return sorted(pages, key=lambda page: page.name)


class Datanet(msgspec.Struct, frozen=True):
    """What one data seed draws from the pool; a piece is a tuple of token ids."""

    names: tuple[str, ...]  # of contributors
    training: tuple[tuple[tuple[int, ...], ...], ...]  # by contributor
    held_out: tuple[tuple[tuple[int, ...], ...], ...]  # by contributor
    outside: tuple[tuple[int, ...], ...]  # each of a page that nobody brought


class Size(msgspec.Struct, frozen=True):
    """How much a Datanet holds."""

    contributors: int = 16
    training: int = 12  # pieces of each contributor
    held_out: int = 3  # further pieces of each
    outside: int = 16  # pieces
    piece_tokens: int = PIECE_TOKENS


def read_pages(cache: Path) -> Pages:
    """The manual's pages from the packages in `cache`, fetched into it if need be.

    Raises:
        SourceUnavailableError: the packages cannot be had.
    """
    archives = [path.read_bytes() for path in obtain("linux-manual", cache).values()]
    documents = [page for one in linux_manual.read(archives) for page in one.documents]
    reading, pool, outside = [], [], []
    for title, page in sorted({page.title: page for page in documents}.items()):
        if title[title.rindex("(") + 1] not in _READ:
            pool.append(_page(page))
        elif sha256(title.encode()).digest()[0] % _KEPT_BACK:
            reading.append(_page(page))
        else:
            outside.append(_page(page))
    return Pages(tuple(reading), tuple(pool), tuple(outside))


def made_up_pages() -> Pages:
    """Pages that mean nothing: each of its own few words, in random order."""
    stream = np.random.Generator(np.random.Philox(key=0))
    letters = list("abcdefghijklmnop")
    pages = []
    for number in range(16):
        words = ["".join(stream.choice(letters, size=4)) for _ in range(12)]
        text = " ".join(stream.choice(words) for _ in range(600))
        pages.append(Page(f"made up {number}", text))
    return Pages(tuple(pages[:4]), tuple(pages[4:12]), tuple(pages[12:]))


def draw(pages: Pages, tokenizer: Tokenizer, seed: int, size: Size) -> Datanet:
    """A Datanet of pages long enough, drawn by the seed; its pieces in random order."""
    stream = np.random.Generator(np.random.Philox(key=seed))
    needed = size.training + size.held_out

    def drawn(some: Sequence[Page], count: int, least: int) -> list[tuple[str, list[Piece]]]:
        found: list[tuple[str, list[Piece]]] = []
        for place in stream.permutation(len(some)):
            pieces = _pieces(tokenizer.encode(some[place].text), size.piece_tokens)
            if len(found) < count and len(pieces) >= least:
                order = stream.permutation(len(pieces))[:least]
                found.append((some[place].name, [pieces[i] for i in order]))
        return found

    chosen = drawn(pages.pool, size.contributors, needed)
    return Datanet(
        names=tuple(name for name, _ in chosen),
        training=tuple(tuple(pieces[: size.training]) for _, pieces in chosen),
        held_out=tuple(tuple(pieces[size.training :]) for _, pieces in chosen),
        outside=tuple(pieces[0] for _, pieces in drawn(pages.outside, size.outside, 1)),
    )


def _page(document: Document) -> Page:
    """Its paragraphs outside the sections that all pages have."""
    kept, is_kept = [], True
    for line in document.text.splitlines():
        if line.isupper() and not line.startswith(" "):
            is_kept = not line.startswith(_BOILERPLATE)
        if is_kept and line.strip():
            kept.append(line.strip())
    return Page(document.key, "\n".join(kept))


def _pieces(tokens: Sequence[int], length: int) -> list[tuple[int, ...]]:
    """Distinct pieces of one length; what is left at the end is dropped."""
    starts = range(0, len(tokens) - length + 1, length)
    return list(dict.fromkeys(tuple(tokens[i : i + length]) for i in starts))
