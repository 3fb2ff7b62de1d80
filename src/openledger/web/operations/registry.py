"""All implementations by the names of their operations."""

from typing import Any, TypeVar

import msgspec

from openledger.operations.operation import Operation
from openledger.web.operations import (
    bases,
    cards,
    datanets,
    epochs,
    exports,
    merging,
    models,
    receipts,
    sources,
    usage,
    wallets,
)
from openledger.web.operations.implementation import Implementation
from openledger.wiring.platform import Platform

Arguments = TypeVar("Arguments", bound=msgspec.Struct)
Result = TypeVar("Result", bound=msgspec.Struct)

_SUBJECTS: tuple[tuple[Implementation[Any, Any], ...], ...] = (
    datanets.IMPLEMENTED,
    sources.IMPLEMENTED,
    models.IMPLEMENTED,
    merging.IMPLEMENTED,
    bases.IMPLEMENTED,
    cards.IMPLEMENTED,
    exports.IMPLEMENTED,
    usage.IMPLEMENTED,
    wallets.IMPLEMENTED,
    epochs.IMPLEMENTED,
    receipts.IMPLEMENTED,
)
IMPLEMENTATIONS = {one.operation.name: one for subject in _SUBJECTS for one in subject}


def run(
    platform: Platform, operation: Operation[Arguments, Result], arguments: Arguments
) -> Result:
    """Run an operation on an opened home.

    Raises:
        OpenLedgerError: what its implementation raises.
    """
    result: Result = IMPLEMENTATIONS[operation.name].run(platform, arguments)
    return result
