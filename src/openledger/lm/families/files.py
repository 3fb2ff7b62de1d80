"""Small files of a foreign folder: bounded before they are read; JSON of a known form or none."""

from pathlib import Path
from typing import TypeVar

import msgspec

from openledger.core.errors import InvalidInputError, NotFoundError

Record = TypeVar("Record", bound=msgspec.Struct)


def read_limited(path: Path, most_bytes: int) -> bytes:
    """The content of a small file.

    Raises:
        NotFoundError: there is no such file.
        InvalidInputError: it is larger than that.
    """
    if not path.is_file():
        raise NotFoundError(f"{path} is missing")
    with path.open("rb") as stream:
        content = stream.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise InvalidInputError(f"{path.name} is larger than {most_bytes >> 20} MiB")
    return content


def read_json(content: bytes, kind: type[Record], what: str) -> Record:
    """A record out of JSON; fields that it does not have are passed over.

    Raises:
        InvalidInputError: it is no JSON, or not of that form; `what` names it.
    """
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInputError(f"{what} cannot be read: {error}") from error
