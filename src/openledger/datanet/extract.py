"""Turn the raw bytes of a contributed file into documents.

Plain text and Markdown are one document a file, a tune book one a tune, JSONL one a line. What
cannot be read as UTF-8 text is refused with its likely cause and cure; nothing is guessed.
"""

import msgspec

from openledger.core.errors import InvalidInputError
from openledger.datanet.abc_notation.tune import split_tunes
from openledger.datanet.text.encoding import decode_text
from openledger.datanet.text.titles import title_key

MEBIBYTE = 2**20


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits on what one file may hold."""

    largest_file_bytes: int = 64 * MEBIBYTE
    most_documents: int = 200_000


class File(msgspec.Struct, frozen=True):
    """A contributed file: the name its contributor gave it and its bytes."""

    name: str
    raw: bytes


class Document(msgspec.Struct, frozen=True):
    """One work inside a file: a page, a tune, an entry."""

    title: str
    text: str
    licence: str  # SPDX expression, or LicenseRef-... for a named licence
    key: str  # folded title or headword; equal keys are held out together
    origin: str  # the file or the place in a package that it was read from
    contributor: str = ""  # the name its source gives; empty when the file's owner is meant
    others: tuple[str, ...] = ()  # further copyright holders named on it


class _Line(msgspec.Struct, frozen=True):
    """One line of a JSONL file; only the text is required."""

    text: str
    title: str = ""
    licence: str = ""
    key: str = ""
    origin: str = ""
    contributor: str = ""
    others: tuple[str, ...] = ()


def extract(file: File, licence: str, config: Config) -> tuple[Document, ...]:
    """Read one file into documents, in their order in the file.

    Args:
        file: its ending says how to read it; an unknown ending is read as plain text.
        licence: for documents that do not name their own.
        config: limits.

    Raises:
        InvalidInputError: empty, binary, not UTF-8, too large, or not of its format.
    """
    _check_size(file, config)
    text = decode_text(file.name, file.raw)
    if not text.strip():
        raise InvalidInputError(f"{file.name} holds only blanks: give a file with text")
    _, _, ending = file.name.lower().rpartition(".")
    match ending:
        case "jsonl" | "ndjson":
            documents = _read_jsonl(file.name, text, licence)
        case "abc":
            documents = _read_abc(file.name, text, licence)
        case _:
            documents = (_document(_text_title(file.name, text), text, licence, file.name),)
    if len(documents) > config.most_documents:
        raise InvalidInputError(
            f"{file.name} holds {len(documents)} documents, more than {config.most_documents}: "
            "split it into several contributions"
        )
    return documents


def write_jsonl(documents: tuple[Document, ...]) -> bytes:
    """Documents as a JSONL file, which `extract` reads back unchanged."""
    return b"".join(msgspec.json.encode(document) + b"\n" for document in documents)


def _check_size(file: File, config: Config) -> None:
    if not file.raw:
        raise InvalidInputError(f"{file.name} is empty (0 bytes): give a file with text")
    if len(file.raw) > config.largest_file_bytes:
        raise InvalidInputError(
            f"{file.name} has {len(file.raw)} bytes, more than the limit of "
            f"{config.largest_file_bytes}: split it into smaller files"
        )


def _read_jsonl(name: str, text: str, licence: str) -> tuple[Document, ...]:
    documents = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = msgspec.json.decode(line, type=_Line)
        except msgspec.MsgspecError as error:
            raise InvalidInputError(
                f'line {number} of {name} is no object like {{"text": "…"}}: {error}'
            ) from error
        title = row.title or _first_line(row.text) or f"{name} line {number}"
        documents.append(
            Document(
                title=title,
                text=row.text,
                licence=row.licence or licence,
                key=row.key or title_key(title),
                origin=row.origin or f"{name}#{number}",
                contributor=row.contributor,
                others=row.others,
            )
        )
    return tuple(documents)


def _read_abc(name: str, text: str, licence: str) -> tuple[Document, ...]:
    tunes = split_tunes(text)
    if not tunes:
        raise InvalidInputError(f"{name} has no tune: each begins with a line like X:1")
    return tuple(
        _document(_tune_title(tune), tune, licence, f"{name}#{number}")
        for number, tune in enumerate(tunes, start=1)
    )


def _document(title: str, text: str, licence: str, origin: str) -> Document:
    return Document(title, text, licence, title_key(title), origin)


def _tune_title(tune: str) -> str:
    titles = (line[2:].strip() for line in tune.splitlines() if line.startswith("T:"))
    return next(titles, "") or _first_line(tune)


def _text_title(name: str, text: str) -> str:
    if name.lower().endswith((".md", ".markdown")):
        headings = (line.strip("# ") for line in text.splitlines() if line.startswith("# "))
        return next(headings, "") or name
    return name


def _first_line(text: str) -> str:
    return next((line.strip()[:80] for line in text.splitlines() if line.strip()), "")
