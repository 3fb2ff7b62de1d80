"""Read files out of package archives in memory: wheels (ZIP) and Debian packages (ar + tar).

Nothing is installed or executed.
"""

import gzip
import io
import lzma
import tarfile
import zipfile
import zlib

from openledger.core.errors import InvalidInputError

_AR_MAGIC = b"!<arch>\n"
_AR_HEADER_BYTES = 60
_LARGEST_UNPACKED_BYTES = 512 * 2**20  # far above what the sources hold; stops archive bombs


def read_wheel(raw: bytes, prefixes: tuple[str, ...], ending: str) -> dict[str, bytes]:
    """The files of a wheel under any of the prefixes, by path, in sorted order.

    Raises:
        InvalidInputError: it is no ZIP archive.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            names = [n for n in archive.namelist() if n.startswith(prefixes) and n.endswith(ending)]
            return {name: archive.read(name) for name in sorted(names)}
    except (zipfile.BadZipFile, zlib.error) as error:
        raise InvalidInputError(f"this is no wheel: {error}; fetch it again") from error


def read_deb(raw: bytes, prefix: str) -> dict[str, bytes]:
    """The regular files of a Debian package under a prefix such as "usr/share/man/", sorted.

    Raises:
        InvalidInputError: it is no Debian package that the standard library can read.
    """
    member = _data_member(raw)
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(member), mode="r:*") as archive:
            for entry in archive:
                name = entry.name.removeprefix("./")
                content = archive.extractfile(entry) if entry.isreg() else None
                if content is not None and name.startswith(prefix):
                    files[name] = content.read()
    except (tarfile.TarError, lzma.LZMAError, EOFError, zlib.error) as error:
        raise InvalidInputError(f"this Debian package is damaged: {error}") from error
    return dict(sorted(files.items()))


def gunzip(raw: bytes) -> str:
    """Text of a gzip file (man pages, dictzip dictionaries) in UTF-8.

    Raises:
        InvalidInputError: it is not that.
    """
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) as stream:
            content = stream.read(_LARGEST_UNPACKED_BYTES)
        return content.decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InvalidInputError(f"this is no gzip file of UTF-8 text: {error}") from error


def _data_member(raw: bytes) -> bytes:
    if not raw.startswith(_AR_MAGIC):
        raise InvalidInputError("this is no Debian package: it does not begin like an ar archive")
    position = len(_AR_MAGIC)
    while position + _AR_HEADER_BYTES <= len(raw):
        name = raw[position : position + 16].strip()
        size = _size(raw[position + 48 : position + 58])
        position += _AR_HEADER_BYTES
        if name.startswith(b"data.tar"):
            return raw[position : position + size]
        position += size + size % 2  # members begin at even offsets
    raise InvalidInputError("this Debian package has no data.tar member")


def _size(digits: bytes) -> int:
    if not digits.strip().isdigit():
        raise InvalidInputError("this Debian package is damaged: a member has no size")
    return int(digits)
