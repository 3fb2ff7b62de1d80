"""A foreign tokenizer, its chat template and the tokens that begin and end a text."""

from pathlib import Path

import msgspec
import tokenizers

from openledger.core.errors import InvalidInputError
from openledger.lm.base import TEMPLATE, TOKENIZER, TOKENIZER_CONFIG
from openledger.lm.families.config import Ends
from openledger.lm.families.files import read_json, read_limited

# For models that were never taught to chat: the texts, line by line.
PLAIN_TEMPLATE = "{% for message in messages %}{{ message['content'] + '\\n' }}{% endfor %}"

_LARGEST_BYTES = 64 << 20
_LARGEST_TEMPLATE = 1 << 20


class Text(msgspec.Struct, frozen=True):
    """What turns text into tokens and back."""

    tokenizer_json: str
    template: str
    end: str  # a token
    begin: str | None  # None: the model has no such token


class _Named(msgspec.Struct, frozen=True):
    content: str


class _NamedTemplate(msgspec.Struct, frozen=True):
    name: str
    template: str


class _TokenizerConfig(msgspec.Struct, frozen=True):
    eos_token: str | _Named | None = None
    bos_token: str | _Named | None = None
    chat_template: str | list[_NamedTemplate] | None = None
    auto_map: dict[str, object] | None = None


class _Limits(msgspec.Struct, frozen=True):
    truncation: dict[str, object] | None = None
    padding: dict[str, object] | None = None


def read_text(folder: Path, ends: Ends, vocabulary: int) -> Text:
    """Read tokenizer and template of a foreign folder.

    Args:
        folder: it holds tokenizer.json, and the others if there are any.
        ends: what config.json says; the tokenizer's own word comes first.
        vocabulary: how many tokens the model knows.

    Raises:
        NotFoundError: there is no tokenizer.json.
        InvalidInputError: a file that is none, code of its own, tokens that the model does not know
            or an end that is none.
    """
    said = _config(folder / TOKENIZER_CONFIG)
    content = _utf8(folder / TOKENIZER, _LARGEST_BYTES)
    tokenizer = _tokenizer(content)
    ids = tokenizer.get_vocab(with_added_tokens=True).values()
    if len(set(ids)) < len(ids):
        raise InvalidInputError(f"two tokens of {TOKENIZER} have one number")
    if max(ids, default=0) >= vocabulary:
        raise InvalidInputError(
            f"the tokenizer has token {max(ids)}, the model a vocabulary of {vocabulary}"
        )
    end = _named(tokenizer, said.eos_token, ends.eos_token_id)
    if end is None:
        raise InvalidInputError(
            "nothing says which token ends a text: give eos_token in tokenizer_config.json"
        )
    begin = _named(tokenizer, said.bos_token, ends.bos_token_id)
    return Text(_without_limits(content), _template(folder, said), end, begin)


def _utf8(path: Path, most: int) -> str:
    try:
        return read_limited(path, most).decode()
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path.name} is no UTF-8: {error}") from error


def _config(path: Path) -> _TokenizerConfig:
    if not path.is_file():
        return _TokenizerConfig()
    said = read_json(read_limited(path, _LARGEST_BYTES), _TokenizerConfig, path.name)
    if said.auto_map:
        raise InvalidInputError(f"{path.name} asks for code of its own (auto_map): never run here")
    return said


def _tokenizer(content: str) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(content)
    except Exception as error:
        # The library raises nothing more special.
        raise InvalidInputError(f"{TOKENIZER} is no tokenizer: {error}") from error


def _named(
    tokenizer: tokenizers.Tokenizer, named: str | _Named | None, numbered: int | list[int] | None
) -> str | None:
    """The token that is named, else the one that is numbered; of several the first."""
    if named is not None:
        name = named if isinstance(named, str) else named.content
        if tokenizer.token_to_id(name) is None:
            raise InvalidInputError(f"{TOKENIZER_CONFIG} names {name!r}, the tokenizer has no such")
        return name
    first = next(iter(numbered), None) if isinstance(numbered, list) else numbered
    if first is None:
        return None
    found: str | None = tokenizer.id_to_token(first)
    if found is None:
        raise InvalidInputError(f"config.json names token {first}, the tokenizer has no such")
    return found


def _without_limits(content: str) -> str:
    """The same tokenizer, which neither cuts texts off nor fills them up."""
    limits = read_json(content.encode(), _Limits, TOKENIZER)
    if not limits.truncation and not limits.padding:
        return content
    fields = msgspec.json.decode(content)
    return msgspec.json.encode(fields | {"truncation": None, "padding": None}).decode()


def _template(folder: Path, said: _TokenizerConfig) -> str:
    if (folder / TEMPLATE).is_file():
        return _utf8(folder / TEMPLATE, _LARGEST_TEMPLATE)
    if isinstance(said.chat_template, list):
        named = {one.name: one.template for one in said.chat_template}
        return named.get("default", PLAIN_TEMPLATE)
    return said.chat_template or PLAIN_TEMPLATE
