"""Cut documents into chunks: the pieces that are stored, trained on and attributed.

A tune or a short page is one chunk. Long text is cut at the coarsest border that keeps a chunk
within its limit: between paragraphs, then lines, then words, then anywhere.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256

import msgspec

from openledger.core.types import Digest
from openledger.datanet.extract import Document


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long a chunk may be."""

    largest_characters: int = 1_500
    # A tune cut in two is no tune; only the very long ones are.
    largest_tune_characters: int = 6_000


class Chunk(msgspec.Struct, frozen=True):
    """A piece of cleaned text."""

    text: str
    digest: Digest  # sha256 of the text in UTF-8
    document: int  # index of its document in the contribution


def chunk(documents: Sequence[Document], config: Config) -> tuple[Chunk, ...]:
    """Cut every document, in order. No chunk is empty or blank."""
    return tuple(
        Chunk(text, text_digest(text), index)
        for index, document in enumerate(documents)
        for text in _cut(document.text, config)
    )


def text_digest(text: str) -> Digest:
    """The digest that names a chunk."""
    return Digest(sha256(text.encode()).hexdigest())


_BORDERS = ("\n\n", "\n", " ")


def _cut(text: str, config: Config) -> list[str]:
    is_tune = text.startswith("X:")
    limit = config.largest_tune_characters if is_tune else config.largest_characters
    return [piece for piece in _within(text, limit, 0) if piece.strip()]


def _within(text: str, limit: int, border: int) -> Iterable[str]:
    """Pieces of at most `limit` characters, cut at this border or finer ones."""
    if len(text) <= limit:
        return [text]
    if border == len(_BORDERS):
        return [text[start : start + limit] for start in range(0, len(text), limit)]
    mark = _BORDERS[border]
    pieces: list[str] = []
    for part in text.split(mark):
        for piece in _within(part, limit, border + 1):
            _append(pieces, piece, mark, limit)
    return pieces


def _append(pieces: list[str], piece: str, mark: str, limit: int) -> None:
    """Fill up the last piece while it stays within the limit."""
    if pieces and len(pieces[-1]) + len(mark) + len(piece) <= limit:
        pieces[-1] += mark + piece
    else:
        pieces.append(piece)
