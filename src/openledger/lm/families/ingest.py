"""A local folder in the format of Hugging Face becomes a base folder, or is refused.

Nothing in it is run, and nothing is believed: sizes are bounded before memory is taken, weights are
held against the configuration, and what is written is a normal form. The same files under the same
name, licence and owner give the same digest.
"""

import re
import secrets
import shutil
from pathlib import Path

import msgspec
import tokenizers

from openledger.core.encoding import digest_of
from openledger.core.errors import ConflictError, InvalidInputError, NotFoundError
from openledger.core.types import Digest
from openledger.lm.base import CONFIG, TOKENIZER, BaseParts, Provenance, digest_file, write_base
from openledger.lm.families.catalogue import entries
from openledger.lm.families.config import ends_of, fields_of, read_config
from openledger.lm.families.files import read_limited
from openledger.lm.families.text import Text, read_text
from openledger.lm.families.weights import read_weights, weight_files
from openledger.lm.tokenizer import ChatMessage, Tokenizer

_LARGEST_CONFIG_BYTES = 4 << 20
_LONGEST_OWNER = 100
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_WORD = r"\(?[A-Za-z0-9][A-Za-z0-9.+-]{0,79}\)?"
_LICENCE = re.compile(rf"{_WORD}( (OR|AND|WITH) {_WORD}){{0,9}}")
_SOURCE = "a folder in the format of Hugging Face"


class Told(msgspec.Struct, frozen=True):
    """What the one who brings a folder says of it."""

    name: str
    licence: str  # SPDX
    owner: str


class Foreign(msgspec.Struct, frozen=True):
    """Which files a base was made from."""

    files: dict[str, Digest]


def ingest(folder: Path, told: Told, bases: Path) -> Digest:
    """Check a foreign folder and write it under `bases`, in a folder named by the digest.

    Raises:
        ConflictError: `bases` has another base model of that name.
        NotFoundError: there is no such folder, or one of its files is missing.
        InvalidInputError: something in it is damaged or not supported; the message says what.
        StorageFullError: the disk is full.
    """
    _check_told(told)
    if not folder.is_dir():
        raise NotFoundError(f"there is no folder {folder}")
    raw = read_limited(folder / CONFIG, _LARGEST_CONFIG_BYTES)
    config = read_config(raw)
    text = read_text(folder, ends_of(raw), config.vocab_size)
    _try_out(text, config.vocab_size)
    files = weight_files(folder)
    weights = read_weights(files, config)
    names = (CONFIG, TOKENIZER, *(path.name for path in files))
    read = Foreign({name: digest_file(folder / name) for name in names})
    dtype = str(next(iter(weights.values())).dtype).removeprefix("torch.")
    parts = BaseParts(
        provenance=Provenance(
            name=told.name,
            licence=told.licence,
            owner=told.owner,
            source=_SOURCE,
            source_digest=digest_of(read),
        ),
        weights=weights,
        config=fields_of(config) | _ends(text),
        tokenizer_json=text.tokenizer_json,
        template=text.template,
        dtype=dtype,
    )
    return _write(bases, parts)


def _check_told(told: Told) -> None:
    if not _NAME.fullmatch(told.name):
        raise InvalidInputError(
            f"{told.name!r} is no name of a base: take 1 to 64 letters, digits, dots, dashes"
        )
    if not _LICENCE.fullmatch(told.licence):
        raise InvalidInputError(f"{told.licence!r} is no SPDX expression or LicenseRef-name")
    if not 0 < len(told.owner.strip()) <= _LONGEST_OWNER:
        raise InvalidInputError(f"name the owner in at most {_LONGEST_OWNER} characters")


def _write(bases: Path, parts: BaseParts) -> Digest:
    """Its name is known only when it is written."""
    fresh = bases / f".added-{secrets.token_hex(8)}"
    try:
        digest = write_base(fresh, parts)
        name = parts.provenance.name
        others = [one.digest for one in entries(bases) if one.manifest.name == name]
        if others and digest not in others:
            raise ConflictError(
                f"base model {others[0]} has the name {name} in this home; give another name"
            )
        if not others:
            fresh.rename(bases / digest)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return digest


def _ends(text: Text) -> dict[str, object]:
    ids = tokenizers.Tokenizer.from_str(text.tokenizer_json)
    end = ids.token_to_id(text.end)
    begin = None if text.begin is None else ids.token_to_id(text.begin)
    return {"eos_token_id": end, "pad_token_id": end, "bos_token_id": begin}


def _try_out(text: Text, vocabulary: int) -> None:
    """Find out now what would break the first call."""
    try:
        named = Tokenizer(text.tokenizer_json, text.template, text.end, text.begin, vocabulary)
    except InvalidInputError:
        raise
    except Exception as error:
        # What contradicts itself is found when the library copies it, and told by no special error.
        raise InvalidInputError(f"the tokenizer cannot be used: {error}") from error
    if named.end not in named.control:
        raise InvalidInputError("the token that ends a text is not marked special in the tokenizer")
    if any(token >= vocabulary for token in named.begin):
        raise InvalidInputError("the tokenizer puts a token before texts that the model has not")
    if not named.encode_chat([ChatMessage("user", "Hello")]):
        raise InvalidInputError("the chat template makes nothing of a user's turn")
