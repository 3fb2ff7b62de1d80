"""The one way a record becomes bytes to hash or sign: RFC 8785 canonical JSON.

Money (`Wei`) and integers beyond 2**53 travel as decimal strings, since JSON numbers lose them.
Digests and accounts are lower-case hex, or refused: as bytes they would be the same record.
Floats are refused: nothing that is hashed or signed may depend on how a float prints.
A field that is `msgspec.UNSET` is left out, so that a record may gain one and old bytes stay valid.
`decode` accepts exactly the bytes that `encode` makes, so one record has one digest.
"""

import re
from hashlib import sha256
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import msgspec
import rfc8785

from openledger.core.errors import InvalidInputError, VerificationError
from openledger.core.types import Digest, Wei, is_canonical

Record = TypeVar("Record", bound=msgspec.Struct)

_LARGEST_JSON_INTEGER = 2**53 - 1
_DEEPEST = 64
# A bracket outside of strings; a whole string is one match, so that its brackets do not count.
# Possessive, or the matcher would remember a way back for each byte: a hundredfold in memory.
_NESTING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)
_PLAIN = (bool, str)
_PLAIN_ON_THE_WIRE = (bool, str, float, bytes, msgspec.Raw)


def encode(record: msgspec.Struct) -> bytes:
    """Canonical bytes of a record.

    Raises:
        InvalidInputError: the record holds a float or another value that JSON cannot carry.
    """
    return rfc8785.dumps(_plain(record, type(record)))


def decode(raw: bytes, kind: type[Record]) -> Record:
    """Read a record back.

    Raises:
        VerificationError: the bytes are not the canonical form of such a record.
    """
    try:
        record = msgspec.convert(parse_json(raw), kind, strict=False)
        canonical = encode(record)
    except (msgspec.MsgspecError, UnicodeDecodeError, InvalidInputError) as error:
        raise VerificationError(f"these bytes are no {kind.__name__}: {error}") from error
    if canonical != raw:
        raise VerificationError(f"this {kind.__name__} is not in canonical form (RFC 8785)")
    return record


def parse_json(raw: bytes) -> Any:  # noqa: ANN401 - any JSON
    """Read JSON from anywhere, refusing what nests deeper than any honest document.

    The parser recurses: without a limit a hundred kilobytes of brackets end the process.

    Raises:
        InvalidInputError: it is no JSON, or nests deeper than 64.
    """
    check_depth(raw)
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"this is no JSON: {error}") from error


def check_depth(raw: bytes) -> None:
    """Refuse JSON that nests deeper than 64, before any parser sees it.

    Raises:
        InvalidInputError: it does.
    """
    depth = 0
    for token in _NESTING.finditer(raw):
        mark = raw[token.start() : token.start() + 1]  # the whole match may be long
        depth += (mark in b"[{") - (mark in b"]}")
        if depth > _DEEPEST:
            raise InvalidInputError(f"this JSON nests deeper than {_DEEPEST}; flatten it")


def to_wire(record: msgspec.Struct) -> bytes:
    """JSON for people and programs: money as decimal strings, bytes as base64, floats allowed.

    Never hashed or signed; `from_wire` reads it back.
    """
    return msgspec.json.encode(_plain(record, type(record), is_strict=False))


def from_wire(raw: bytes, kind: type[Record]) -> Record:
    """Read what `to_wire` wrote.

    Raises:
        InvalidInputError: it is no such record.
    """
    try:
        check_depth(raw)
        # Straight into the type, so that a `msgspec.Raw` field keeps its bytes.
        return msgspec.json.decode(raw, type=kind, strict=False)
    except (msgspec.MsgspecError, UnicodeDecodeError, InvalidInputError) as error:
        raise InvalidInputError(f"this is no {kind.__name__}: {error}") from error


def digest_of(record: msgspec.Struct) -> Digest:
    """The sha256 of a record's canonical bytes."""
    return Digest(sha256(encode(record)).hexdigest())


def salted_digest(salt: bytes, value: bytes) -> Digest:
    """Commit to `value` so that nobody without the 32-byte salt can test a guess."""
    if len(salt) != 32:
        raise InvalidInputError(f"a salt has 32 bytes, not {len(salt)}")
    return Digest(sha256(salt + value).hexdigest())


def _plain(value: Any, kind: Any, *, is_strict: bool = True) -> Any:  # noqa: ANN401 - any field
    if isinstance(value, msgspec.Struct):
        fields = msgspec.structs.fields(type(value))
        return {
            f.encode_name: _plain(getattr(value, f.name), f.type, is_strict=is_strict)
            for f in fields
            if getattr(value, f.name) is not msgspec.UNSET
        }
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if _is_money(kind) or abs(value) > _LARGEST_JSON_INTEGER else value
    if isinstance(value, dict):
        inner = _arguments(kind)[-1]
        return {key: _plain(item, inner, is_strict=is_strict) for key, item in value.items()}
    if isinstance(value, tuple | list):
        inner = _arguments(kind)[0]
        return [_plain(item, inner, is_strict=is_strict) for item in value]
    if value is None or isinstance(value, _PLAIN if is_strict else _PLAIN_ON_THE_WIRE):
        return _hexadecimal(value, kind) if is_strict and isinstance(value, str) else value
    raise InvalidInputError(f"a {type(value).__name__} has no canonical form: {value!r}")


def _hexadecimal(value: str, kind: Any) -> str:  # noqa: ANN401 - a type expression
    """Digests and accounts have one form each: other letter cases would be other bytes."""
    members = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if not all(is_canonical(value, member) for member in members):
        raise InvalidInputError(f"{value!r} is no account or digest in lower-case hex")
    return value


def _is_money(kind: Any) -> bool:  # noqa: ANN401 - a type expression has no common type
    if get_origin(kind) in (Union, UnionType):
        return any(_is_money(member) for member in get_args(kind))
    return kind is Wei


def _arguments(kind: Any) -> tuple[Any, ...]:  # noqa: ANN401 - a type expression
    members = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return next((get_args(m) for m in members if get_args(m)), (Any,))
