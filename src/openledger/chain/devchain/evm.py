"""py-evm as a chain of one block per transaction, under the rules of the Prague fork.

Only this module knows py-evm. It imports it when a chain is opened, since that takes a second.
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, TypeAlias

import msgspec

from openledger.chain.devchain.store import Store

GAS_LIMIT = 60_000_000  # of a block, for ever: py-evm alone would let it shrink block by block
_TRANSACTION_TYPES = frozenset({1, 2, 4})  # blobs need a beacon chain, which this chain has not
_LEGACY_PREFIX = 0xC0

# py-evm ships no types that strict mypy accepts; its objects stay inside this package.
Header: TypeAlias = Any
Transaction: TypeAlias = Any
Receipt: TypeAlias = Any


class Call(msgspec.Struct, frozen=True):
    """A message to run on a copy of the state; amounts in wei."""

    sender: bytes
    to: bytes  # empty: create a contract
    data: bytes
    value: int
    gas: int


class Outcome(msgspec.Struct, frozen=True):
    """What running a message came to."""

    output: bytes
    gas_used: int  # before refunds: what must be there while it runs
    depth: int  # how deep its calls went; 0 when it called no contract
    error: str | None  # the name of the exception, None when it succeeded
    is_revert: bool  # the contract refused, and `output` holds its reason


class MinedBlock(msgspec.Struct, frozen=True):
    """A new block and what its transactions, none or one, left behind."""

    header: Header
    size_bytes: int
    transaction: Transaction | None = None
    receipt: Receipt | None = None
    created: bytes | None = None  # the address of the contract that the transaction made


class Evm:
    """The state machine: headers, accounts, running and mining."""

    def __init__(self, store: Store, chain_id: int) -> None:
        self._store = store
        self._kind = _chain_class(chain_id)
        self._database = _database(store)
        self._chain: Any = None

    def create(self, allocation: Mapping[bytes, int], timestamp: int) -> MinedBlock:
        """Make the first block; `allocation` maps addresses to wei."""
        accounts = {
            address: {"balance": balance, "nonce": 0, "code": b"", "storage": {}}
            for address, balance in allocation.items()
        }
        first = {
            "coinbase": bytes(20),
            "difficulty": 0,
            "gas_limit": GAS_LIMIT,
            "timestamp": timestamp,
            "extra_data": b"",
            "nonce": bytes(8),
            "mix_hash": bytes(32),
        }
        self._chain = self._kind.from_genesis(self._database, first, accounts)
        block = self._chain.get_canonical_block_by_number(0)
        return MinedBlock(block.header, _size_of(block))

    def load(self) -> Header:
        """Read the head again; also the way back after a block that could not be written."""
        self._chain = self._kind(self._database)
        return self._chain.get_canonical_head()

    def header(self, number: int) -> Header:
        return self._chain.get_canonical_block_header_by_number(number)

    def decode(self, raw: bytes) -> Transaction:
        """Read a signed transaction.

        Raises:
            ValueError: it is malformed, of a kind this chain lacks, or its signature is.
        """
        if not raw or (raw[0] < _LEGACY_PREFIX and raw[0] not in _TRANSACTION_TYPES):
            raise ValueError("transaction type not supported")
        from eth_utils.exceptions import ValidationError
        from rlp.exceptions import RLPException

        try:
            transaction = self._chain.get_vm().get_transaction_builder().decode(raw)
            transaction.validate()
            transaction.check_signature_validity()
        except (RLPException, ValidationError, ArithmeticError, TypeError) as error:
            raise ValueError(f"malformed transaction: {error}") from error
        return transaction

    def next_header(self, parent: Header, timestamp: int) -> Header:
        """The header of a block on `parent`; its time is later than the parent's."""
        return self._chain.create_header_from_parent(parent).copy(
            gas_limit=GAS_LIMIT,
            timestamp=max(timestamp, parent.timestamp + 1),
            mix_hash=sha256(b"randao" + parent.hash).digest(),
        )

    def state(self, header: Header) -> Any:  # noqa: ANN401 - py-evm's own
        """The accounts as the block of `header` will find them; changes go nowhere."""
        return self._chain.get_vm(header).state

    def run(self, header: Header, call: Call) -> Outcome:
        """Run a message at gas price 0 on the state that `header` builds on.

        Raises:
            ValueError: the sender cannot pay the value, or the gas does not cover the input.
        """
        from eth.exceptions import Revert
        from eth.vm.spoof import SpoofTransaction
        from eth_utils.exceptions import ValidationError

        vm = self._chain.get_vm(header.copy(base_fee_per_gas=0))
        state = vm.state
        unsigned = vm.get_transaction_builder().new_unsigned_dynamic_fee_transaction(
            chain_id=self._chain.chain_id,
            nonce=state.get_nonce(call.sender),
            max_priority_fee_per_gas=0,
            max_fee_per_gas=0,
            gas=call.gas,
            to=call.to,
            value=call.value,
            data=call.data,
            access_list=[],
        )
        try:
            done = state.apply_transaction(SpoofTransaction(unsigned, from_=call.sender))
        except ValidationError as error:
            raise ValueError(str(error)) from error
        return Outcome(
            output=bytes(done.output) if call.to or done.is_error else done.msg.storage_address,
            gas_used=call.gas - done.get_gas_remaining(),
            depth=_depth(done),
            error=type(done.error).__name__ if done.is_error else None,
            is_revert=done.is_error and isinstance(done.error, Revert),
        )

    def mine(self, header: Header, transaction: Transaction | None) -> MinedBlock:
        """Make a block of one transaction or none; the caller opened the store's block."""
        self._chain.header = header
        transactions = [] if transaction is None else [transaction]
        imported, receipts, computations = self._chain.mine_all(transactions)
        created = None
        if computations and transaction is not None and not transaction.to:
            created = bytes(computations[0].msg.storage_address)
        return MinedBlock(
            header=imported.imported_block.header,
            size_bytes=_size_of(imported.imported_block),
            transaction=transaction,
            receipt=receipts[0] if receipts else None,
            created=created,
        )


def _depth(computation: Any) -> int:  # noqa: ANN401 - py-evm's own
    return max((1 + _depth(child) for child in computation.children), default=0)


def _size_of(block: Any) -> int:  # noqa: ANN401 - py-evm's own
    import rlp

    return len(rlp.encode(block))


def _trust(_chain: object, _block: object) -> None:
    """Blocks are not checked once more: this process has just made them by the rules."""


def _chain_class(chain_id: int) -> Any:  # noqa: ANN401 - a class that py-evm makes
    from eth.chains.base import MiningChain
    from eth.consensus.noproof import NoProofConsensus
    from eth.vm.forks.prague import PragueVM

    rules = PragueVM.configure(consensus_class=NoProofConsensus)
    return MiningChain.configure(
        __name__="DevelopmentChain",
        vm_configuration=((0, rules),),
        chain_id=chain_id,
        validate_block=_trust,
    )


def _database(store: Store) -> Any:  # noqa: ANN401 - py-evm's own
    from eth.db.atomic import AtomicDB
    from eth.db.backends.base import BaseDB

    class Pairs(BaseDB):  # type: ignore[misc]  # py-evm is untyped here
        def __getitem__(self, key: bytes) -> bytes:
            item = store.pair(key)
            if item is None:
                raise KeyError(key)
            return item

        def __setitem__(self, key: bytes, item: bytes) -> None:
            store.put_pair(key, item)

        def __delitem__(self, key: bytes) -> None:
            store.drop_pair(key)

        def _exists(self, key: bytes) -> bool:
            return store.pair(key) is not None

    return AtomicDB(Pairs())
