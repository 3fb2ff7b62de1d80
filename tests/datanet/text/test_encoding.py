import pytest

from openledger.core.errors import InvalidInputError
from openledger.datanet.text.encoding import decode_text


def test_text_loses_its_byte_order_mark_and_odd_line_ends() -> None:
    assert decode_text("a.txt", "\ufeffkañv\r\nbuan\runan\n".encode()) == "kañv\nbuan\nunan\n"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"%PDF-1.7", "PDF: export"),
        (b"PK\x03\x04rest", "ZIP, DOCX"),
        ("déjà".encode("utf-16"), "looks like UTF-16: convert it with iconv -f UTF-16 -t UTF-8"),
        ("déjà".encode("utf-32"), "UTF-32"),
        ("plain text".encode("utf-16-le"), "UTF-16LE"),
        ("plain text".encode("utf-16-be"), "UTF-16BE"),
        ("déjà vu".encode("latin-1"), r"\(byte 1\); it looks like ISO-8859-1"),
        ("“déjà vu”".encode("cp1252"), "WINDOWS-1252"),
        (b"text\x00text, and more of it", "binary"),
        (bytes(range(1, 9)) * 20, "binary"),
    ],
)
def test_other_bytes_are_refused_with_cause_and_cure(raw: bytes, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        decode_text("a.txt", raw)
