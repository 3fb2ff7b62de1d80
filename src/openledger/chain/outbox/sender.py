"""One pass over one sender's rows: look up receipts, send again, sign and send what is queued.

What makes it exactly once:

- A transaction is signed and stored in one database transaction, guarded by the sender's lease,
  before any node sees it. A crash after that finds the very bytes and sends them again.
- All transactions ever signed for a row share its nonce, so at most one of them can be mined.
- A time-out means nothing: the row stays, its hashes are looked up, its bytes sent again.
- A row whose run would fail is failed before it gets a nonce, so it never blocks those behind;
  while an earlier row is still on its way, it waits, since it may depend on that one.
"""

from collections.abc import Callable

import msgspec

from openledger.chain.client import Client
from openledger.chain.keys import Keyring
from openledger.chain.outbox import fees, rows
from openledger.chain.outbox.batch import Batch
from openledger.chain.outbox.fees import Draft, Signed
from openledger.chain.outbox.rows import Row, State
from openledger.chain.outbox.tracking import Change, horizon, look_up
from openledger.chain.relay import Relay
from openledger.core.errors import ChainRejectedError, ConflictError, UnavailableError
from openledger.core.types import Account
from openledger.storage import leases
from openledger.storage.database import Database
from openledger.storage.leases import Lease

_MICROSECONDS = 1_000_000
_KNOWN_ALREADY = ("already known", "already imported", "nonce too low", "replacement transaction")


class Pass(msgspec.Struct, frozen=True):
    """What one pass did."""

    signed: int = 0
    ended: int = 0  # final or failed
    problem: str | None = None  # why rows wait, in one sentence


class Sender:
    """The one that signs for a key in this process; the lease makes it the one everywhere.

    Args:
        account: whose key it is.
        database: where the rows are.
        client: the chain.
        keyring: has the key.
        clock: microseconds since 1970.
    """

    def __init__(
        self,
        account: Account,
        owner: str,
        database: Database,
        client: Client,
        keyring: Keyring,
        clock: Callable[[], int],
    ) -> None:
        self._account = account
        self._owner = owner
        self._database = database
        self._client = client
        self._keyring = keyring
        self._clock = clock
        self._lease: Lease | None = None

    def run(self, relay: Relay | None) -> Pass:
        """Do what can be done now and return; never waits for a block.

        Args:
            relay: makes the twins of relayed acts; None before the contracts are deployed.
        """
        signed = ended = 0
        try:
            self._hold()
            ended = self._track()
            self._send_again()
            signed, failed = self._sign_queued(relay)
            ended += failed
            if signed:
                self._send_new()
                ended += self._track()
        except ConflictError as error:
            self._lease = None  # another process signs for this key now
            return Pass(0, ended, str(error))
        except (UnavailableError, ChainRejectedError) as error:
            return Pass(signed, ended, str(error))
        return Pass(signed, ended)

    def release(self) -> None:
        """Give the lease back."""
        if self._lease is not None:
            with self._database.transaction() as transaction:
                leases.release(transaction, self._lease)
            self._lease = None

    def _hold(self) -> None:
        now, duration = self._clock(), int(self._client.config.lease_s * _MICROSECONDS)
        if self._lease is not None and self._lease.expires_at - now > duration // 2:
            return
        self._lease = None
        name = f"sender/{self._account}"
        with self._database.transaction() as transaction:
            lease = leases.acquire(transaction, name, self._owner, now, duration)
        self._lease = lease

    def _rows(self, *states: State) -> list[Row]:
        with self._database.read() as transaction:
            return rows.open_rows(transaction, self._account, states)

    def _store(self, changes: list[Change]) -> None:
        """Write under the lease: a sender that lost it writes nothing."""
        if not changes:
            return
        assert self._lease is not None
        with self._database.transaction() as transaction:
            leases.check(transaction, self._lease)
            for change in changes:
                guard = {"updated_at": self._clock(), "fencing": self._lease.fencing}
                rows.update(transaction, change.position, guard | change.values)

    def _track(self) -> int:
        """Look up what was sent; return how many rows ended."""
        sent = self._rows(State.SIGNED, State.MINED)
        if not sent:
            return 0
        final = horizon(self._client, self._account)
        found = [look_up(self._client, row, final) for row in sent]
        changes = [change for change in found if change is not None]
        self._store(changes)
        ends = {State.FINAL.value, State.FAILED.value}
        return sum(change.values["state"] in ends for change in changes)

    def _send_again(self) -> None:
        """Send what was never sent, or long ago; offer more for the oldest that nobody mines."""
        config, now = self._client.config, self._clock()
        for place, row in enumerate(self._rows(State.SIGNED)):
            is_overdue = row.sent_at is not None and now - row.sent_at > (
                config.bump_after_s * _MICROSECONDS
            )
            if place == 0 and is_overdue:
                self._offer_more(row)
            elif (
                row.sent_at is None or now - row.updated_at > config.resend_after_s * _MICROSECONDS
            ):
                self._send(row)

    def _offer_more(self, row: Row) -> None:
        assert row.raw_tx is not None
        draft = fees.redraft(row.raw_tx, self._account)
        cap = self._client.config.profile.max_fee_wei
        dearer = fees.bumped(draft.fees, fees.present_fees(self._client), cap)
        if dearer is None:
            self._send(row)
            return
        signed = self._sign(row, msgspec.structs.replace(draft, fees=dearer))
        hashes = rows.pack_hashes([*reversed(row.hashes()), signed.hash])
        values = {"raw_tx": signed.raw, "tx_hashes": hashes, "sent_at": self._clock()}
        self._store([Change(row.position, values)])
        self._hand_over(signed.raw)

    def _send(self, row: Row) -> None:
        assert row.raw_tx is not None
        self._hand_over(row.raw_tx)
        self._store([Change(row.position, {"sent_at": row.sent_at or self._clock()})])

    def _send_new(self) -> None:
        """Hand over what was just stored; a failure leaves the rest for the next pass."""
        sent: list[Change] = []
        try:
            for row in self._rows(State.SIGNED):
                if row.sent_at is None and row.raw_tx is not None:
                    self._hand_over(row.raw_tx)
                    sent.append(Change(row.position, {"sent_at": self._clock()}))
        finally:
            self._store(sent)

    def _hand_over(self, raw: bytes) -> None:
        try:
            self._client.send(raw)
        except ChainRejectedError as error:
            if not any(words in str(error).lower() for words in _KNOWN_ALREADY):
                raise

    def _sign_queued(self, relay: Relay | None) -> tuple[int, int]:
        """Sign queued rows in order until one has to wait; return how many, and how many failed."""
        queued = self._rows(State.QUEUED)
        if not queued:
            return 0, 0
        batch = Batch(self._client, relay, self._rows(State.SIGNED))
        try:
            for row in queued:
                if not batch.admits(row):
                    break
        finally:
            signed = self._store_batch(batch) if batch.ready or batch.failed else 0
        return signed, len(batch.failed)

    def _store_batch(self, batch: Batch) -> int:
        changes = list(batch.failed)
        if batch.ready:
            offer = fees.present_fees(self._client)
            nonce = self._next_nonce()
            for place, one in enumerate(batch.ready):
                draft = Draft(one.message, self._client.chain_id, nonce + place, one.gas, offer)
                changes.append(self._signed_change(one.row, draft))
        self._store(changes)
        return len(batch.ready)

    def _signed_change(self, row: Row, draft: Draft) -> Change:
        signed = self._sign(row, draft)
        fees.check_funds(self._client, draft, signed.raw)
        return Change(
            row.position,
            {
                "state": State.SIGNED.value,
                "nonce": draft.nonce,
                "raw_tx": signed.raw,
                "tx_hashes": rows.pack_hashes([signed.hash]),
                "attempt": 1,
                "sent_at": None,
                "error": None,
            },
        )

    def _next_nonce(self) -> int:
        with self._database.read() as transaction:
            own = rows.next_nonce(transaction, self._account)
        return max(self._client.nonce(self._account, "pending"), own)

    def _sign(self, row: Row, draft: Draft) -> Signed:
        return fees.sign(draft, self._keyring.private_key(row.signer))
