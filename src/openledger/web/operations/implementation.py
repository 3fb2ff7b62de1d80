"""The shape of an operation's implementation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from openledger.operations.operation import Operation
from openledger.wiring.platform import Platform

Arguments = TypeVar("Arguments", bound=msgspec.Struct)
Result = TypeVar("Result", bound=msgspec.Struct)


@dataclass(frozen=True)
class Implementation(Generic[Arguments, Result]):
    """An operation and the function that does it."""

    operation: Operation[Arguments, Result]
    run: Callable[[Platform, Arguments], Result]
