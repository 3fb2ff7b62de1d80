"""Follows the chain: stores our contracts' events, takes back what the chain takes back.

Every pass moves one cursor in the transaction that stores or undoes rows, so that a crash between
two passes changes nothing. Whoever acts on events (`consume`) sees those of final blocks only,
once each, in the transaction in which he acts.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from openledger.chain.client import Client
from openledger.chain.contracts import Contracts, interface
from openledger.chain.index import rows
from openledger.chain.index.rows import Cursor, StoredEvent
from openledger.chain.wire.answers import Block, Log
from openledger.core.errors import (
    ChainRejectedError,
    ChainUnavailableError,
    ConflictError,
    WrongChainError,
)
from openledger.storage.database import Database, Transaction

_SEEN: Final = "seen"  # the names of cursors; consumers have their own behind "consumer/"
_FINAL: Final = "final"
_KEPT_BELOW_FINAL: Final = 64  # headers kept under the newest final block

Handler = Callable[[Transaction, StoredEvent], None]


class Progress(msgspec.Struct, frozen=True):
    """What one poll did."""

    height: int  # the newest block read
    final: int  # the newest that stays
    events: int  # new ones
    undone: int  # blocks taken back


class Indexer:
    """Reads events block by block; safe to share among threads.

    Args:
        database: where rows are.
        contracts: whose events, on which chain.
        clock: microseconds since 1970.
    """

    def __init__(self, database: Database, contracts: Contracts, clock: Callable[[], int]) -> None:
        self._database = database
        self._contracts = contracts
        self._client: Client = contracts.client
        self._clock = clock
        self._polling = threading.Lock()

    def poll(self) -> Progress:
        """Read everything new.

        Raises:
            ChainUnavailableError: the chain does not answer, or changed while it was read; what
                was read before stays, call again.
            WrongChainError: the chain took back a block that counted as final.
        """
        with self._polling:
            undone = self._rewind()
            height = self._client.height()
            final = min(height, self._client.final_height())
            found = 0
            seen = self._seen()
            while seen.number < height:
                seen, count = self._advance(seen, height, final)
                found += count
            self._settle(min(final, seen.number))
            return Progress(seen.number, min(final, seen.number), found, undone)

    def events(
        self,
        contract: str | None = None,
        name: str | None = None,
        after: int = -1,
        *,
        only_final: bool = True,
    ) -> list[StoredEvent]:
        """Events read so far, in the order they were written.

        Args:
            contract: of which; None for all six.
            name: "Committed"; None for all.
            after: only of blocks above this number.
            only_final: leave out those that the chain may still take back.
        """
        address = None if contract is None else self._contracts.deployment.address(contract)
        with self._database.read() as transaction:
            last = rows.highest(transaction, [_FINAL if only_final else _SEEN])
            return rows.events(transaction, address, name, after + 1, last)

    def consume(self, consumer: str, handler: Handler) -> int:
        """Give each event of a final block to a handler, once for ever; return how many.

        Args:
            consumer: whose cursor.
            handler: acts on one event, in the transaction that moves the cursor. If it raises,
                nothing of this call is stored.
        """
        name = f"consumer/{consumer}"
        with self._database.transaction() as transaction:
            final = rows.cursor(transaction, _FINAL)
            if final is None:
                return 0
            done = rows.highest(transaction, [name])
            found = rows.events(transaction, None, None, done + 1, final.number)
            for event in found:
                handler(transaction, event)
            if final.number > done:
                rows.move(transaction, name, final, self._clock())
            return len(found)

    def _seen(self) -> Cursor:
        with self._database.read() as transaction:
            found = rows.cursor(transaction, _SEEN)
        return found or self._begin()

    def _begin(self) -> Cursor:
        """Start at the block before the contracts: the deepest that we can ever go back to."""
        block = self._header(max(0, self._contracts.deployment.block - 1))
        begun = Cursor(block.number, block.hash)
        with self._database.transaction() as transaction:
            rows.put(transaction, [block], [])
            rows.move(transaction, _SEEN, begun, self._clock())
        return begun

    def _rewind(self) -> int:
        """Go back to the newest block that the chain still has; return how many were undone."""
        with self._database.read() as transaction:
            seen = rows.cursor(transaction, _SEEN)
            if seen is None or self._stands(seen):
                return 0
            kept = rows.kept_blocks(transaction)
            final = rows.highest(transaction, [_FINAL])
        ancestor = next((block for block in kept if self._stands(block)), None)
        if ancestor is None or ancestor.number < final:
            raise WrongChainError(
                f"the chain took back block {final}, which counted as final; check the node, or "
                "begin with a fresh home"
            )
        with self._database.transaction() as transaction:
            rows.undo(transaction, ancestor.number)
            rows.move(transaction, _SEEN, ancestor, self._clock())
        return seen.number - ancestor.number

    def _stands(self, known: Cursor) -> bool:
        block = self._client.block(known.number)
        return block is not None and block.hash == known.hash

    def _advance(self, seen: Cursor, height: int, final: int) -> tuple[Cursor, int]:
        last = min(height, seen.number + self._client.config.profile.log_range)
        blocks = self._headers(seen, last, final)
        logs, last = self._logs(seen.number + 1, last)
        blocks = [block for block in blocks if block.number <= last]
        if not blocks or blocks[-1].number != last:
            blocks.append(self._header(last))
        tip = Cursor(last, blocks[-1].hash)
        self._check(seen, blocks, logs)
        found = [event for event in map(self._event, logs) if event is not None]
        with self._database.transaction() as transaction:
            if rows.cursor(transaction, _SEEN) != seen:
                raise ConflictError("two indexers follow the chain for one home; stop one")
            rows.put(transaction, blocks, found)
            rows.move(transaction, _SEEN, tip, self._clock())
        return tip, len(found)

    def _headers(self, seen: Cursor, last: int, final: int) -> list[Block]:
        """Every block that may be taken back, and the final one on which they stand."""
        first = max(seen.number + 1, final)
        return [self._header(number) for number in range(first, last + 1)]

    def _header(self, number: int) -> Block:
        block = self._client.block(number)
        if block is None:
            raise ChainUnavailableError(f"block {number} is gone; the chain is changing, try again")
        return block

    def _logs(self, first: int, last: int) -> tuple[list[Log], int]:
        """Logs up to `last`, or up to less when the node finds that too much at once."""
        addresses = self._contracts.deployment.addresses()
        while True:
            try:
                return self._client.logs(first, last, addresses), last
            except ChainRejectedError:
                if first == last:
                    raise
                last = (first + last) // 2

    def _check(self, seen: Cursor, blocks: Sequence[Block], logs: Sequence[Log]) -> None:
        """See that headers and logs are of one chain, which has not changed meanwhile."""
        hashes = {block.number: block.hash for block in blocks} | {seen.number: seen.hash}
        for block in blocks:
            if hashes.get(block.number - 1, block.parent) != block.parent and block.number > 0:
                raise ChainUnavailableError("the chain changed while it was read; try again")
        if any(hashes.get(log.number, log.block_hash) != log.block_hash for log in logs):
            raise ChainUnavailableError("the chain changed while it was read; try again")
        if not self._stands(Cursor(blocks[-1].number, blocks[-1].hash)):
            raise ChainUnavailableError("the chain changed while it was read; try again")

    def _event(self, log: Log) -> StoredEvent | None:
        name = self._contracts.name_of(log.contract)
        if name is None or not log.topics:
            return None
        event = interface(name).events.get(log.topics[0].hex())
        if event is None:
            return None
        return StoredEvent(
            block_hash=log.block_hash,
            log_index=log.log_index,
            number=log.number,
            tx_hash=log.tx_hash,
            contract=log.contract,
            event=event.name,
            args=rows.pack(event.decode(log.topics[1:], log.data)),
        )

    def _settle(self, final: int) -> None:
        """Note how far the chain is final, and forget headers far below."""
        with self._database.read() as transaction:
            known = rows.cursor(transaction, _FINAL)
        if known is not None and known.number >= final:
            return
        block = self._header(final)
        with self._database.transaction() as transaction:
            rows.move(transaction, _FINAL, Cursor(final, block.hash), self._clock())
            rows.prune(transaction, final - _KEPT_BELOW_FINAL)
