"""Calls, results, events and refusals of a contract, between Python values and ABI bytes.

Values travel in the project's own forms: an address is an `Account`, bytes32 is 64 hex digits
without 0x (a `Digest` when it is one), other bytes are `bytes`, a struct is a tuple or a
`msgspec.Struct` whose fields stand in the contract's order.

Source: https://docs.soliditylang.org/en/latest/abi-spec.html
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, TypeAlias, cast

import msgspec
from eth_abi.abi import decode as decode_abi
from eth_abi.abi import encode as encode_abi
from eth_abi.exceptions import DecodingError, EncodingError
from eth_utils.crypto import keccak

from openledger.core.errors import InvalidInputError, NotFoundError, VerificationError
from openledger.core.ids import near_names
from openledger.core.types import Account

Value: TypeAlias = "bool | int | str | bytes | tuple[Value, ...] | None"
Argument: TypeAlias = "Value | Sequence[Argument] | msgspec.Struct"

_ERROR_STRING = keccak(text="Error(string)")[:4]
_PANIC = keccak(text="Panic(uint256)")[:4]
_WORD = 32


class Parameter(msgspec.Struct, frozen=True):
    """One input, output, struct member or event field."""

    name: str
    type: str
    components: tuple["Parameter", ...] = ()
    indexed: bool = False

    @property
    def canonical(self) -> str:
        """The type as signatures and the codec write it: structs as lists of types."""
        if not self.type.startswith("tuple"):
            return self.type
        members = ",".join(member.canonical for member in self.components)
        return f"({members}){self.type.removeprefix('tuple')}"


class Function(msgspec.Struct, frozen=True):
    """A function that can be called from outside."""

    name: str
    inputs: tuple[Parameter, ...]
    outputs: tuple[Parameter, ...]

    @property
    def selector(self) -> bytes:
        types = ",".join(item.canonical for item in self.inputs)
        return keccak(text=f"{self.name}({types})")[:4]

    def encode(self, arguments: Sequence[Argument]) -> bytes:
        """Calldata: selector and arguments.

        Raises:
            InvalidInputError: an argument is missing, superfluous or of the wrong type.
        """
        return self.selector + encode_values(self.inputs, arguments, self.name)

    def decode_arguments(self, calldata: bytes) -> tuple[Value, ...]:
        """The arguments that `encode` was given."""
        return decode_values(self.inputs, calldata[4:])

    def decode(self, output: bytes) -> Value:
        """What the function returned; several values as a tuple, none as None."""
        values = decode_values(self.outputs, output)
        return values[0] if len(values) == 1 else values or None


class Event(msgspec.Struct, frozen=True):
    """An event as contracts log it."""

    name: str
    fields: tuple[Parameter, ...]

    @property
    def topic(self) -> str:
        types = ",".join(item.canonical for item in self.fields)
        return keccak(text=f"{self.name}({types})").hex()

    def decode(self, topics: Sequence[bytes], data: bytes) -> dict[str, Value]:
        """The fields by name; `topics` without the first, which is the event's own."""
        indexed = [item for item in self.fields if item.indexed]
        plain = [item for item in self.fields if not item.indexed]
        if len(topics) != len(indexed):
            raise VerificationError(
                f"the chain returned a log of another shape: {self.name} has {len(topics)} "
                f"indexed fields instead of {len(indexed)}"
            )
        values = dict(zip((f.name for f in plain), decode_values(plain, data), strict=True))
        for field, topic in zip(indexed, topics, strict=True):
            values[field.name] = decode_values([field], topic)[0]
        return {field.name: values[field.name] for field in self.fields}


class Interface:
    """The functions and events of one kind of contract."""

    def __init__(self, name: str, abi: Sequence[Mapping[str, object]]) -> None:
        self.name = name
        self._abi = abi

    @cached_property
    def functions(self) -> dict[str, Function]:
        """By name; where one name has several forms (default arguments), the longest."""
        found: dict[str, Function] = {}
        for item in self._items("function"):
            function = Function(str(item["name"]), _read(item["inputs"]), _read(item["outputs"]))
            known = found.get(function.name)
            if known is None or len(known.inputs) < len(function.inputs):
                found[function.name] = function
        return found

    @cached_property
    def events(self) -> dict[str, Event]:
        """By topic, in hex."""
        events = [Event(str(e["name"]), _read(e["inputs"])) for e in self._items("event")]
        return {event.topic: event for event in events}

    @cached_property
    def constructor(self) -> tuple[Parameter, ...]:
        return next((_read(item["inputs"]) for item in self._items("constructor")), ())

    def function(self, name: str) -> Function:
        """One function.

        Raises:
            NotFoundError: there is none of that name.
        """
        try:
            return self.functions[name]
        except KeyError:
            near = ", ".join(near_names(name, self.functions))
            raise NotFoundError(f"{self.name} has no function {name}; near: {near}") from None

    def _items(self, kind: str) -> list[Mapping[str, object]]:
        return [item for item in self._abi if item.get("type") == kind]


def encode_values(
    parameters: Sequence[Parameter], values: Sequence[Argument], what: str = "the call"
) -> bytes:
    """ABI bytes of values.

    Raises:
        InvalidInputError: a value is missing, superfluous or of the wrong type.
    """
    if len(parameters) != len(values):
        raise InvalidInputError(f"{what} takes {len(parameters)} arguments, not {len(values)}")
    try:
        raw = [_lower(item, value) for item, value in zip(parameters, values, strict=True)]
        return encode_abi([item.canonical for item in parameters], raw)
    except (EncodingError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InvalidInputError(f"{what} does not take these arguments: {error}") from error


def decode_values(parameters: Sequence[Parameter], raw: bytes) -> tuple[Value, ...]:
    """Values out of ABI bytes.

    Raises:
        VerificationError: the bytes do not hold such values.
    """
    try:
        values = decode_abi([item.canonical for item in parameters], raw)
    except (DecodingError, OverflowError, ValueError) as error:
        raise VerificationError(f"the chain returned bytes of another shape: {error}") from error
    return tuple(_raise(item, value) for item, value in zip(parameters, values, strict=True))


def revert_reason(output: bytes) -> str:
    """What a contract said when it refused; empty when it said nothing."""
    if output[:4] == _ERROR_STRING:
        try:
            return str(decode_abi(["string"], output[4:])[0])
        except (DecodingError, OverflowError, ValueError):
            return "0x" + output.hex()
    if output[:4] == _PANIC and len(output) == 4 + _WORD:
        return f"panic {int.from_bytes(output[4:], 'big'):#x}"
    return "0x" + output.hex() if output else ""


def _read(items: object) -> tuple[Parameter, ...]:
    return msgspec.convert(items, tuple[Parameter, ...])


def _lower(parameter: Parameter, value: Argument) -> Any:  # noqa: ANN401 - what eth-abi takes
    if parameter.type.endswith("]"):
        inner = _element(parameter)
        return [_lower(inner, item) for item in cast(Sequence[Argument], value)]
    if parameter.type == "tuple":
        members = msgspec.structs.astuple(value) if isinstance(value, msgspec.Struct) else value
        pairs = zip(parameter.components, cast(Sequence[Argument], members), strict=True)
        return tuple(_lower(member, item) for member, item in pairs)
    if parameter.type.startswith("bytes") and isinstance(value, str):
        return bytes.fromhex(value.removeprefix("0x"))
    return value


def _raise(parameter: Parameter, value: Any) -> Value:  # noqa: ANN401 - what eth-abi gives
    if parameter.type.endswith("]"):
        inner = _element(parameter)
        return tuple(_raise(inner, item) for item in value)
    if parameter.type == "tuple":
        pairs = zip(parameter.components, value, strict=True)
        return tuple(_raise(member, item) for member, item in pairs)
    if parameter.type == "address":
        return Account(value.lower())
    if parameter.type == "bytes32":
        return str(value.hex())
    return cast(Value, value)


def _element(parameter: Parameter) -> Parameter:
    inner = parameter.type[: parameter.type.rindex("[")]
    return msgspec.structs.replace(parameter, type=inner)
