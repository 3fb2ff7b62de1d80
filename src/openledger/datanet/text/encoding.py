"""Decode a file as UTF-8, or say what it looks like instead.

Only UTF-8 is accepted: a wrong guess would store spoilt text for ever. The guess is for the error
message alone.
"""

import re

from openledger.core.errors import InvalidInputError

_SIGNATURES = (
    (b"%PDF", "a PDF: export its text first"),
    (b"PK\x03\x04", "a ZIP, DOCX, XLSX or EPUB file: export its text first"),
    (b"\x1f\x8b", "a gzip file: unpack it first"),
    (b"\xfd7zXZ", "an xz file: unpack it first"),
    (b"\x89PNG", "a PNG image, which is not text"),
    (b"\xff\xd8\xff", "a JPEG image, which is not text"),
    (b"GIF8", "a GIF image, which is not text"),
    (b"\x7fELF", "a program, which is not text"),
)
_WIDE_MARKS = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_WINDOWS_ONLY = re.compile(rb"[\x80-\x9f]")
_SAMPLE_BYTES = 65_536
_FEWEST_ZEROS = 0.3  # of a sample's bytes on one side, when plain text is stored as UTF-16


def decode_text(name: str, raw: bytes) -> str:
    """The text of a file, lines ending in a line feed, without byte order mark.

    Raises:
        InvalidInputError: it is binary or in another encoding; the message says which it looks
            like and how to convert it.
    """
    for signature, what in _SIGNATURES:
        if raw.startswith(signature):
            raise InvalidInputError(f"{name} is {what}")
    wide = _wide_encoding(raw)
    if wide is not None:
        raise InvalidInputError(_conversion(name, wide))
    sample = raw[:_SAMPLE_BYTES]
    if b"\x00" in raw or len(_CONTROL.findall(sample)) > len(sample) // 100:
        raise InvalidInputError(f"{name} is binary: give text, Markdown, ABC or JSONL")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInputError(_conversion(name, _narrow_encoding(raw), error.start)) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _wide_encoding(raw: bytes) -> str | None:
    for mark, encoding in _WIDE_MARKS:
        if raw.startswith(mark):
            return encoding
    sample = raw[:_SAMPLE_BYTES]
    fewest = int(len(sample) * _FEWEST_ZEROS) + 1
    if sample[1::2].count(0) >= fewest and sample[::2].count(0) == 0:
        return "UTF-16LE"
    if sample[::2].count(0) >= fewest and sample[1::2].count(0) == 0:
        return "UTF-16BE"
    return None


def _narrow_encoding(raw: bytes) -> str:
    return "WINDOWS-1252" if _WINDOWS_ONLY.search(raw) else "ISO-8859-1"


def _conversion(name: str, encoding: str, position: int | None = None) -> str:
    where = "" if position is None else f" (byte {position})"
    return (
        f"{name} is not UTF-8{where}; it looks like {encoding}: "
        f"convert it with iconv -f {encoding} -t UTF-8"
    )
