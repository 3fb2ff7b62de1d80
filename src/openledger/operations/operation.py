"""The shape of an operation: what is asked and what comes back, without how it is done."""

from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

Arguments = TypeVar("Arguments", bound=msgspec.Struct)
Result = TypeVar("Result", bound=msgspec.Struct)


@dataclass(frozen=True)
class Operation(Generic[Arguments, Result]):
    """One thing that can be asked for; `name` is its path under /api/operations."""

    name: str
    arguments: type[Arguments]
    result: type[Result]


class Nothing(msgspec.Struct, frozen=True):
    """No arguments."""
