"""Folders whose files lie encrypted under the home's key: what was learned from private texts.

A file's ciphertext is bound to the names of its folder's parent and its own, so that the files of
one run cannot pass for those of another.
"""

import os
import shutil
import tempfile
from pathlib import Path

from openledger.core.errors import full_disk
from openledger.storage.vault import Sealer, is_sealed


@full_disk()
def seal_folder(sealer: Sealer, plain: Path, sealed: Path) -> None:
    """Replace `plain` by an encrypted copy at `sealed`, whole or not at all.

    Raises:
        StorageFullError: the disk is full; `plain` is still there.
    """
    scratch = Path(tempfile.mkdtemp(prefix=f".{sealed.name}-", dir=sealed.parent))
    try:
        for path in sorted(plain.iterdir()):
            content = sealer.seal(_name(sealed / path.name), path.read_bytes())
            with (scratch / path.name).open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
        shutil.rmtree(sealed, ignore_errors=True)
        scratch.rename(sealed)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    shutil.rmtree(plain)


class SealedFolder:
    """Reads the files of one sealed folder."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def read(self, path: Path) -> bytes:
        """The content of a file; one that an older version left unsealed is read as it lies there.

        Whoever reads checks digests, so that putting a plain file there gains nothing.

        Raises:
            VerificationError: it was altered, or belongs to another folder or home.
            OSError: it is not there.
        """
        content = path.read_bytes()
        return self._sealer.unseal(_name(path), content) if is_sealed(content) else content


def _name(path: Path) -> str:
    return f"file/{path.parent.parent.name}/{path.parent.name}/{path.name}"
