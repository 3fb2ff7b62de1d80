"""The shape of an operation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from openledger.wiring.platform import Platform

Arguments = TypeVar("Arguments", bound=msgspec.Struct)
Result = TypeVar("Result", bound=msgspec.Struct)


@dataclass(frozen=True)
class Operation(Generic[Arguments, Result]):
    """One thing that can be asked for; `name` is its path under /api/operations."""

    name: str
    arguments: type[Arguments]
    result: type[Result]
    run: Callable[[Platform, Arguments], Result]


class Nothing(msgspec.Struct, frozen=True):
    """No arguments."""
