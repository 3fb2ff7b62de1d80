"""Writing to the contracts as flows do: queue in a business transaction, confirm afterwards."""

from collections.abc import Callable, Mapping, Sequence

from openledger.chain.contracts import Contracts, Write
from openledger.chain.outbox.outbox import Outbox, Outcome
from openledger.chain.outbox.rows import State
from openledger.core.types import Digest
from openledger.storage.database import Database, Transaction


class Acts:
    """The outbox with the contracts it writes to, and the patience of this installation."""

    def __init__(
        self, database: Database, contracts: Contracts, outbox: Outbox, timeout_s: float
    ) -> None:
        self.contracts = contracts
        self.outbox = outbox
        self._database = database
        self._timeout_s = timeout_s

    def queue(self, transaction: Transaction, op: Digest, write: Write) -> None:
        """Queue a write in the caller's transaction; the same operation only once."""
        self.outbox.submit(transaction, op, write)

    def confirm(self, ops: Sequence[Digest]) -> list[Outcome]:
        """Wait until these operations succeeded.

        Raises:
            ChainRejectedError: a contract refused one; the message carries its reason.
            ChainUnavailableError: they still wait; nothing is lost, call again.
        """
        return self.outbox.confirm(ops, self._timeout_s) if ops else []

    def perform(self, writes: Mapping[Digest, Write]) -> list[Outcome]:
        """Queue writes and wait for them; one that was refused earlier is tried again.

        Raises:
            ChainRejectedError: see `confirm`.
            ChainUnavailableError: see `confirm`.
        """
        with self._database.transaction() as transaction:
            for op, write in writes.items():
                self.outbox.submit(transaction, op, write)
        return self.confirm_again(list(writes))

    def perform_latest(self, op: Digest, make: Callable[[], Write]) -> Outcome:
        """Queue what `make` gives now, unless the operation is under way, and wait for it.

        For writes that hold what may change before they are sent, such as a payer's voucher.

        Raises:
            ChainRejectedError: see `confirm`.
            ChainUnavailableError: see `confirm`.
        """
        with self._database.read() as transaction:
            is_under_way = self.outbox.is_under_way(transaction, op)
        if not is_under_way:
            write = make()
            with self._database.transaction() as transaction:
                self.outbox.renew(transaction, op, write)
        return self.confirm([op])[0]

    def confirm_again(self, ops: Sequence[Digest]) -> list[Outcome]:
        """`confirm`, after queueing again what was refused in an earlier run.

        Raises:
            ChainRejectedError: see `confirm`.
            ChainUnavailableError: see `confirm`.
        """
        failed = [one.op_id for one in self.outbox.outcomes(ops) if one.state is State.FAILED]
        if failed:
            with self._database.transaction() as transaction:
                for op in failed:
                    self.outbox.retry(transaction, op)
        return self.confirm(ops)
