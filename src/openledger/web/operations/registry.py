"""All operations by name."""

from typing import Any

from openledger.web.operations import (
    cards,
    datanets,
    epochs,
    exports,
    models,
    receipts,
    sources,
    wallets,
)
from openledger.web.operations.operation import Operation

OPERATIONS: dict[str, Operation[Any, Any]] = {
    operation.name: operation
    for operation in (
        datanets.CREATE,
        datanets.ADD,
        datanets.IMPORT,
        datanets.SHOW,
        datanets.LIST,
        datanets.VERIFY,
        sources.BRING,
        models.START,
        models.SHOW_RUN,
        models.LIST_RUNS,
        models.PUBLISH,
        models.SHOW,
        models.LIST,
        models.DEPRECATE,
        cards.CARD,
        exports.EXPORT,
        exports.OPENINGS,
        wallets.NEW,
        wallets.BALANCE,
        wallets.DEPOSIT,
        wallets.WITHDRAW,
        wallets.NEW_KEY,
        wallets.REVOKE_KEY,
        wallets.CLAIM,
        epochs.SETTLE,
        epochs.SHOW,
        epochs.IDENTITY,
        receipts.SHOW,
        receipts.EVIDENCE,
    )
}
