"""Clean the documents of one contributor; every drop is reported with its reason and count.

Order: mojibake repair (only where it shows), Unicode NFC, control characters, blanks, then
boiler-plate. Boiler-plate is prose repeated over one contributor's documents: licences, footers,
and phrases planted to be credited for. Music, code and tables repeat by nature and are left alone.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from enum import StrEnum

import ftfy
import msgspec

from openledger.datanet.extract import Document


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When repeated prose is boiler-plate: both conditions must hold."""

    boilerplate_documents: int = 3  # a line or paragraph in at least this many documents
    boilerplate_percent: int = 20  # and in at least this share of the contributor's documents


class Reason(StrEnum):
    """Why something was changed or left out."""

    MOJIBAKE_REPAIRED = "mojibake repaired"
    CONTROL_CHARACTERS = "control characters removed"
    BOILERPLATE = "repeated paragraphs or lines removed"
    EMPTY = "documents empty after cleaning"
    LICENCE = "documents under a licence that the rules do not allow"
    OWN_DUPLICATE = "chunks that stand twice in this contribution"
    DUPLICATE = "chunks contributed before"


class Drop(msgspec.Struct, frozen=True):
    """One line of the report."""

    reason: Reason
    count: int
    detail: str = ""  # the first contributor of a duplicate, the licence refused


class Cleaned(msgspec.Struct, frozen=True):
    """What is left, and what was dropped."""

    documents: tuple[Document, ...]
    drops: tuple[Drop, ...]


def clean(documents: Sequence[Document], config: Config) -> Cleaned:
    """Clean one contributor's documents; empty ones are left out."""
    counts: Counter[Reason] = Counter()
    texts = [_clean_text(document.text, counts) for document in documents]
    texts = _drop_boilerplate(texts, config, counts)
    kept = []
    for document, text in zip(documents, texts, strict=True):
        if text:
            title = " ".join(unicodedata.normalize("NFC", document.title).split())
            kept.append(msgspec.structs.replace(document, title=title, text=text))
        else:
            counts[Reason.EMPTY] += 1
    return Cleaned(tuple(kept), report(counts))


def report(counts: Counter[Reason]) -> tuple[Drop, ...]:
    """The counts as lines, in the order of `Reason`."""
    return tuple(Drop(reason, counts[reason]) for reason in Reason if counts[reason])


# What UTF-8 looks like after being read as Windows-1252 or Latin-1. The gate matters: ftfy itself
# is thirty times slower than the rest of cleaning and may alter text that is right.
_MOJIBAKE = re.compile("[ÃÂ][\u0080-\u00bf]|â€|â\u0080|ï»¿|Ã[ŠŽš-ž‚-‰]")
_CONTROL = re.compile("[\u0000-\u0008\u000b-\u001f\u007f-\u009f\ufeff\u200b\u2060\ufffe\uffff]")
_TRAILING_BLANKS = re.compile(r"[^\S\n]+$", re.MULTILINE)
_MANY_LINES = re.compile(r"\n{3,}")
_BORDER = re.compile(r"\n\s*\n")
_WORD = re.compile(r"[^\W\d_]{3,}")
_NOTE_LETTERS = re.compile(r"[A-Ga-gxz]+")
_FEWEST_WORDS = 5  # shorter lines are headings, tags and table cells, which repeat honestly


def _clean_text(text: str, counts: Counter[Reason]) -> str:
    if _MOJIBAKE.search(text):
        repaired = ftfy.fix_encoding(text)
        counts[Reason.MOJIBAKE_REPAIRED] += repaired != text
        text = repaired
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
    text, removed = _CONTROL.subn("", text)
    counts[Reason.CONTROL_CHARACTERS] += removed
    text = _TRAILING_BLANKS.sub("", text.replace("\u00a0", " "))
    return _MANY_LINES.sub("\n\n", text).strip("\n").rstrip()


def _drop_boilerplate(texts: list[str], config: Config, counts: Counter[Reason]) -> list[str]:
    repeated = _repeated(texts, config)
    if not repeated:
        return texts
    kept_texts = []
    for text in texts:
        paragraphs = []
        for paragraph in _BORDER.split(text):
            if _fold(paragraph) in repeated:
                counts[Reason.BOILERPLATE] += 1
                continue
            lines = [line for line in paragraph.split("\n") if _fold(line) not in repeated]
            counts[Reason.BOILERPLATE] += paragraph.count("\n") + 1 - len(lines)
            paragraphs.append("\n".join(lines))
        kept_texts.append("\n\n".join(part for part in paragraphs if part.strip()).strip("\n"))
    return kept_texts


def _repeated(texts: list[str], config: Config) -> set[str]:
    fewest = max(config.boilerplate_documents, len(texts) * config.boilerplate_percent / 100)
    if len(texts) < fewest:
        return set()
    seen: Counter[str] = Counter()
    for text in texts:
        seen.update({_fold(piece) for piece in _pieces(text) if _is_prose(piece)})
    return {piece for piece, documents in seen.items() if documents >= fewest}


def _pieces(text: str) -> Iterable[str]:
    yield from _BORDER.split(text)
    yield from text.split("\n")


def _is_prose(piece: str) -> bool:
    words = _WORD.findall(piece)
    return sum(not _NOTE_LETTERS.fullmatch(word) for word in words) >= _FEWEST_WORDS


def _fold(piece: str) -> str:
    return " ".join(piece.casefold().split())
