"""The embedded development chain: mines each transaction at once, keeps all of it in one file.

It is a real chain of valid Prague blocks for one process and nobody's money: blocks come from
transactions and from `mine`, never from time, and the head is final.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, cast

import msgspec

from openledger.chain.abi import revert_reason
from openledger.chain.devchain.evm import (
    GAS_LIMIT,
    Call,
    Evm,
    Header,
    MinedBlock,
    Outcome,
    Transaction,
)
from openledger.chain.devchain.forms import Form, block_form, log_forms, receipt_form
from openledger.chain.devchain.forms import transaction_form as transaction_form_of
from openledger.chain.devchain.store import Store, StoredLog, StoredTransaction
from openledger.core.errors import OpenLedgerError, WrongChainError

_CALL_STIPEND = 2_300  # gas that a call with value hands on, whether it is used or not


class RpcError(OpenLedgerError):
    """A JSON-RPC error, with the code and data that a client sees."""

    code: ClassVar[str] = "rpc_error"

    def __init__(self, rpc_code: int, message: str, data: str | None = None) -> None:
        super().__init__(message)
        self.rpc_code = rpc_code
        self.data = data


class LogFilter(msgspec.Struct, frozen=True):
    """Which logs to return; an empty set at a position admits every topic there."""

    first: int
    last: int
    addresses: tuple[bytes, ...]
    topics: tuple[frozenset[str], ...]


class DevChain:
    """One development chain in one file; safe to use from several threads.

    Args:
        path: the SQLite file, made when missing.
        chain_id: must be that of an existing file.
        allocation: wei by address for the first block; ignored when the file exists.
        clock: seconds since 1970.

    Raises:
        HomeBusyError: another process has the file open.
        WrongChainError: the file holds a chain with another id.
    """

    def __init__(
        self,
        path: Path,
        chain_id: int,
        allocation: Mapping[bytes, int],
        clock: Callable[[], float],
    ) -> None:
        self.chain_id = chain_id
        self._clock = clock
        self._lock = threading.RLock()
        self._store = Store(path)
        try:
            self._check_chain_id(path)
            self._evm = Evm(self._store, chain_id)
            self._head = self._open(allocation)
        except BaseException:
            self._store.close()
            raise

    def close(self) -> None:
        with self._lock:
            self._store.close()

    @property
    def height(self) -> int:
        """The number of the newest block."""
        with self._lock:
            return int(self._head.block_number)

    @property
    def base_fee(self) -> int:
        """Wei per gas that the next block will burn."""
        with self._lock:
            return int(self._next().base_fee_per_gas)

    def balance(self, address: bytes, number: int) -> int:
        with self._lock:
            return int(self._evm.state(self._child_of(number)).get_balance(address))

    def nonce(self, address: bytes, number: int) -> int:
        with self._lock:
            return int(self._evm.state(self._child_of(number)).get_nonce(address))

    def code(self, address: bytes, number: int) -> bytes:
        with self._lock:
            return bytes(self._evm.state(self._child_of(number)).get_code(address))

    def call(self, call: Call, number: int) -> bytes:
        """Run a message on the state after block `number` and return what it returns.

        Raises:
            RpcError: it failed; data holds the bytes that the contract refused with.
        """
        with self._lock:
            outcome = self._run(self._child_of(number), call)
        return outcome.output

    def estimate(self, call: Call) -> int:
        """Gas enough for a message now, from one run with plenty of it.

        A contract keeps 1/64 of its gas from each contract it calls (EIP-150), so what it used
        suffices when a 63rd is added for every level of calls.

        Raises:
            RpcError: it fails with any amount of gas.
        """
        with self._lock:
            outcome = self._run(self._next(), msgspec.structs.replace(call, gas=GAS_LIMIT))
        gas = outcome.gas_used
        for _ in range(outcome.depth):
            gas += gas // 63 + _CALL_STIPEND
        return min(max(gas, _floor(call.data)), GAS_LIMIT)

    def send(self, raw: bytes) -> bytes:
        """Mine a signed transaction in a block of its own and return its hash.

        Raises:
            RpcError: it cannot enter a block now: bad nonce, no funds, wrong chain, malformed.
            StorageFullError, UnavailableError: the block could not be written.
        """
        with self._lock:
            try:
                transaction = self._evm.decode(raw)
            except ValueError as error:
                raise RpcError(-32000, str(error)) from error
            header = self._next()
            self._check(transaction, header)
            self._mine(header, transaction)
            return bytes(transaction.hash)

    def mine(self, count: int) -> None:
        """Add `count` empty blocks."""
        with self._lock:
            for _ in range(count):
                self._mine(self._next(), None)

    def increase_time(self, seconds: int) -> int:
        """Let the next block be that much later; return the whole shift from the clock."""
        with self._lock:
            shift = (self._store.fact("time_shift_s") or 0) + seconds
            with self._store.block():
                self._store.put_fact("time_shift_s", shift)
            return shift

    def block_at(self, number: int) -> Form | None:
        with self._lock:
            return _form(self._store.block_at(number))

    def block_of(self, block_hash: bytes) -> Form | None:
        with self._lock:
            return _form(self._store.block_of(block_hash))

    def transaction(self, transaction_hash: bytes) -> Form | None:
        with self._lock:
            return _form(self._store.transaction(transaction_hash))

    def receipt(self, transaction_hash: bytes) -> Form | None:
        with self._lock:
            return _form(self._store.receipt(transaction_hash))

    def logs(self, wanted: LogFilter) -> list[Form]:
        """The logs that pass a filter, in the order they were written."""
        with self._lock:
            rows = self._store.logs(wanted.first, wanted.last, wanted.addresses)
        forms = [cast(Form, msgspec.json.decode(row)) for row in rows]
        return [form for form in forms if _has_topics(form["topics"], wanted.topics)]

    def _open(self, allocation: Mapping[bytes, int]) -> Header:
        if self._store.fact("chain_id") is not None:
            return self._evm.load()
        with self._store.block():
            first = self._evm.create(allocation, int(self._clock()))
            self._store.put_fact("chain_id", self.chain_id)
            self._store.put_block(0, first.header.hash, _packed(block_form(first)))
        return first.header

    def _check_chain_id(self, path: Path) -> None:
        found = self._store.fact("chain_id")
        if found not in (None, self.chain_id):
            raise WrongChainError(
                f"{path} holds a development chain with id {found}, not {self.chain_id}; "
                "use that id, or another home"
            )

    def _now(self) -> int:
        return int(self._clock()) + (self._store.fact("time_shift_s") or 0)

    def _next(self) -> Header:
        return self._evm.next_header(self._head, self._now())

    def _child_of(self, number: int) -> Header:
        """The header whose state is that after block `number`."""
        if number == self._head.block_number:
            return self._next()
        if not 0 <= number < self._head.block_number:
            raise RpcError(-32001, f"block {number} does not exist")
        parent = self._evm.header(number)
        return self._evm.next_header(parent, parent.timestamp + 1)

    def _run(self, header: Header, call: Call) -> Outcome:
        try:
            outcome = self._evm.run(header, call)
        except ValueError as error:
            raise RpcError(-32000, str(error)) from error
        if outcome.is_revert:
            raise _reverted(outcome.output)
        if outcome.error is not None:
            raise RpcError(-32000, f"EVM error {outcome.error}")
        return outcome

    def _check(self, transaction: Transaction, header: Header) -> None:
        """Refuse what cannot enter the next block, in the words of other nodes."""
        if self._store.transaction(transaction.hash) is not None:
            raise RpcError(-32000, "already known")
        if transaction.chain_id not in (None, self.chain_id):
            raise RpcError(-32000, f"invalid chain id {transaction.chain_id}: not {self.chain_id}")
        if transaction.max_fee_per_gas < header.base_fee_per_gas:
            raise RpcError(-32003, "max fee per gas less than block base fee")
        if transaction.gas > GAS_LIMIT:
            raise RpcError(-32003, "exceeds block gas limit")
        if transaction.gas < transaction.intrinsic_gas:
            raise RpcError(-32003, "intrinsic gas too low")
        self._check_sender(transaction, header)

    def _check_sender(self, transaction: Transaction, header: Header) -> None:
        state = self._evm.state(header)
        nonce = state.get_nonce(transaction.sender)
        if transaction.nonce != nonce:
            which = "low" if transaction.nonce < nonce else "high"
            raise RpcError(-32003, f"nonce too {which}: {transaction.nonce}, next is {nonce}")
        cost = transaction.gas * transaction.max_fee_per_gas + transaction.value
        if state.get_balance(transaction.sender) < cost:
            raise RpcError(-32003, "insufficient funds for gas * price + value")

    def _mine(self, header: Header, transaction: Transaction | None) -> None:
        try:
            with self._store.block():
                block = self._evm.mine(header, transaction)
                self._write(block)
        except BaseException:
            self._head = self._evm.load()  # py-evm had gone ahead of the file
            raise
        self._head = block.header

    def _write(self, block: MinedBlock) -> None:
        number = int(block.header.block_number)
        self._store.put_block(number, block.header.hash, _packed(block_form(block)))
        if block.transaction is None:
            return
        logs = log_forms(block)
        self._store.put_transaction(
            StoredTransaction(
                hash=block.transaction.hash,
                number=number,
                body=_packed(transaction_form_of(block.transaction, block.header)),
                receipt=_packed(receipt_form(block, logs)),
            )
        )
        addresses = [log.address for log in block.receipt.logs] if block.receipt else []
        self._store.put_logs(
            StoredLog(number, index, address, _packed(log))
            for index, (address, log) in enumerate(zip(addresses, logs, strict=True))
        )


def _floor(data: bytes) -> int:
    """The least gas of a transaction with these bytes (EIP-7623)."""
    return 21_000 + 10 * (len(data) + 3 * (len(data) - data.count(0)))


def _reverted(output: bytes) -> RpcError:
    reason = revert_reason(output)
    message = "execution reverted" + (f": {reason}" if reason else "")
    return RpcError(3, message, "0x" + output.hex())


def _has_topics(found: object, wanted: Sequence[frozenset[str]]) -> bool:
    assert isinstance(found, list)
    return len(found) >= len(wanted) and all(
        not options or topic in options for topic, options in zip(found, wanted, strict=False)
    )


def _packed(form: Form) -> bytes:
    return msgspec.json.encode(form)


def _form(raw: bytes | None) -> Form | None:
    return None if raw is None else cast(Form, msgspec.json.decode(raw))
