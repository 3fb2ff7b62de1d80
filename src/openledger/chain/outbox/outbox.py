"""The outbox: what the platform writes to the chain, each operation exactly once.

A flow queues writes in the transaction of its business change, then waits for them or lets the
worker pump. While the chain is down, rows wait. Afterwards each is final, or failed with a reason.
"""

import secrets
import threading
import time
from collections.abc import Callable, Sequence

import msgspec

from openledger.chain.client import Client
from openledger.chain.contracts import Write
from openledger.chain.keys import Keyring
from openledger.chain.outbox import rows
from openledger.chain.outbox.rows import Row, State
from openledger.chain.outbox.sender import Sender
from openledger.chain.relay import Relay
from openledger.core.errors import ChainRejectedError, ChainUnavailableError
from openledger.core.types import Account, Digest
from openledger.storage.database import Database, Transaction

_ENDS = (State.FINAL, State.FAILED)


class Outcome(msgspec.Struct, frozen=True):
    """Where one operation stands."""

    op_id: Digest
    what: str
    state: State
    tx_hash: Digest | None
    block: int | None
    gas_used: int | None
    reason: str | None  # why it failed

    @property
    def has_ended(self) -> bool:
        return self.state in _ENDS


class Report(msgspec.Struct, frozen=True):
    """What one pump did, over all senders."""

    signed: int
    ended: int
    waiting: int  # rows that are not at their end
    problem: str | None  # why some wait, in one sentence


class Outbox:
    """Queue, pump and wait; safe to share among threads.

    Args:
        database: where rows are.
        client: the chain.
        keyring: keys of senders and of accounts that act.
        clock: microseconds since 1970.
        sleep: seconds.
        owner: who holds the leases of keys. The holder of a home's lock gives one name for ever, so
            that it goes on at once after a crash; None makes one up, and a crash costs a lease.
    """

    def __init__(
        self,
        database: Database,
        client: Client,
        keyring: Keyring,
        clock: Callable[[], int],
        sleep: Callable[[float], None] = time.sleep,
        owner: str | None = None,
    ) -> None:
        self._database = database
        self._client = client
        self._keyring = keyring
        self._clock = clock
        self._sleep = sleep
        self._owner = owner or secrets.token_hex(16)
        self._senders: dict[Account, Sender] = {}
        self._pumping = threading.Lock()
        self.relay: Relay | None = None  # set once the contracts are deployed

    def submit(self, transaction: Transaction, op: Digest, write: Write) -> None:
        """Queue a write in the caller's transaction; a repeat of the same operation does nothing.

        Raises:
            ConflictError: the operation was queued before with another content.
        """
        sender = self._keyring.account(write.sender)
        rows.insert(transaction, op, sender, write, self._clock())

    def retry(self, transaction: Transaction, op: Digest) -> None:
        """Queue a failed operation again, in its old place.

        Raises:
            NotFoundError: no such operation was queued.
            ConflictError: it did not fail.
        """
        rows.requeue(transaction, op, self._clock())

    def is_under_way(self, transaction: Transaction, op: Digest) -> bool:
        """Whether that operation was queued and did not fail."""
        return rows.is_under_way(transaction, op)

    def renew(self, transaction: Transaction, op: Digest, write: Write) -> None:
        """Queue an operation, unless it is under way; what failed gets this content.

        The content of an operation that is under way stays: it may have reached the chain.
        """
        if rows.is_under_way(transaction, op):
            return
        if rows.is_known(transaction, op):
            rows.replace(transaction, op, write, self._clock())
        else:
            self.submit(transaction, op, write)

    def is_known(self, transaction: Transaction, op: Digest) -> bool:
        """Whether that operation was ever queued."""
        return rows.is_known(transaction, op)

    def close(self) -> None:
        """Give back the leases, so that another process need not wait for their end."""
        with self._pumping:
            for sender in self._senders.values():
                sender.release()
            self._senders.clear()

    def outcomes(self, ops: Sequence[Digest]) -> list[Outcome]:
        """Where operations stand.

        Raises:
            NotFoundError: one was never queued.
        """
        with self._database.read() as transaction:
            return [_outcome(row) for row in rows.find_all(transaction, ops)]

    def pump(self) -> Report:
        """Do all that can be done now, for every sender, and return."""
        with self._pumping:
            with self._database.read() as transaction:
                senders = rows.senders(transaction)
            passes = [self._sender(account).run(self.relay) for account in senders]
            with self._database.read() as transaction:
                waiting = rows.count_open(transaction)
        problems = [one.problem for one in passes if one.problem is not None]
        return Report(
            signed=sum(one.signed for one in passes),
            ended=sum(one.ended for one in passes),
            waiting=waiting,
            problem=problems[0] if problems else None,
        )

    def wait(self, ops: Sequence[Digest], timeout_s: float) -> list[Outcome]:
        """Pump until these operations are at their end, whether final or failed.

        Raises:
            ChainUnavailableError: the time is over and they still wait; nothing is lost.
            NotFoundError: one was never queued.
        """
        end = self._clock() + int(timeout_s * 1_000_000)
        while True:
            found = self.outcomes(ops)
            open_ops = [one for one in found if not one.has_ended]
            if not open_ops:
                return found
            report = self.pump()
            if report.signed or report.ended:
                continue
            if self._clock() >= end:
                why = report.problem or "no block took them"
                raise ChainUnavailableError(
                    f"{len(open_ops)} writes wait in the outbox after {timeout_s:g} s: {why}"
                )
            self._sleep(self._client.config.profile.block_time_s)

    def confirm(self, ops: Sequence[Digest], timeout_s: float) -> list[Outcome]:
        """`wait`, and insist that all of them succeed.

        Raises:
            ChainRejectedError: one failed; the message carries its reason.
            ChainUnavailableError: the time is over and they still wait; nothing is lost.
        """
        found = self.wait(ops, timeout_s)
        for one in found:
            if one.state is State.FAILED:
                raise ChainRejectedError(
                    f"{one.what} was refused: {one.reason}",
                    kind="run",
                    reason=one.reason or "",
                    op_id=one.op_id,
                )
        return found

    def _sender(self, account: Account) -> Sender:
        if account not in self._senders:
            self._senders[account] = Sender(
                account, self._owner, self._database, self._client, self._keyring, self._clock
            )
        return self._senders[account]


def _outcome(row: Row) -> Outcome:
    return Outcome(
        op_id=row.op_id,
        what=row.label,
        state=row.state,
        tx_hash=row.tx_hash,
        block=row.block,
        gas_used=row.gas_used,
        reason=row.error if row.state is State.FAILED else None,
    )
