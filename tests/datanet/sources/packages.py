"""Small packages made in memory, as the sources read them."""

import gzip
import io
import tarfile
import zipfile


def wheel(files: dict[str, str]) -> bytes:
    """A ZIP archive of these texts."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return stream.getvalue()


def deb(files: dict[str, bytes], links: tuple[str, ...] = ()) -> bytes:
    """A Debian package with these files and symbolic links."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:xz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for name in links:
            entry = tarfile.TarInfo(f"./{name}")
            entry.type = tarfile.SYMTYPE
            entry.linkname = "elsewhere"
            archive.addfile(entry)
    return ar({"debian-binary": b"2.0\n.", "data.tar.xz": stream.getvalue()})


def ar(members: dict[str, bytes]) -> bytes:
    """An ar archive; members of odd length are padded."""
    raw = b"!<arch>\n"
    for name, content in members.items():
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n"
        raw += header.encode() + content + b"\n" * (len(content) % 2)
    return raw


def gz(text: str) -> bytes:
    """Text packed by gzip, always to the same bytes."""
    return gzip.compress(text.encode(), mtime=0)
