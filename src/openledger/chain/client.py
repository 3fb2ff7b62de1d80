"""Talking to a node: typed JSON-RPC with the chain's identity checked.

Reads are tried again when the node does not answer; a transaction is sent once per call, since
only the outbox knows what an unanswered one means.
"""

import time
from collections.abc import Callable, Sequence
from typing import NoReturn

import msgspec

from openledger.chain.abi import revert_reason
from openledger.chain.config import Config, Finality
from openledger.chain.wire import answers
from openledger.chain.wire.answers import Block, Log, Receipt, Refusal
from openledger.chain.wire.transport import Transport
from openledger.core.errors import (
    ChainRejectedError,
    ChainUnavailableError,
    WrongChainError,
)
from openledger.core.types import ZERO_ACCOUNT, Account, Digest, Wei

_REVERTED = 3  # the code of an error that carries what the contract returned
_FAILED_RUNS = ("revert", "evm error", "out of gas", "invalid opcode", "invalid jump", "stack ")
_BUSY_CODES = frozenset({-32005, -32603})  # limit exceeded, internal error

Tag = int | Finality


class Message(msgspec.Struct, frozen=True):
    """A call or a transaction before it is signed; ZERO_ACCOUNT as contract creates one."""

    sender: Account
    contract: Account
    calldata: bytes
    value: Wei = Wei(0)

    def form(self) -> dict[str, str]:
        """The fields as JSON-RPC wants them."""
        form = {"from": self.sender, "input": "0x" + self.calldata.hex(), "value": hex(self.value)}
        return form if self.contract == ZERO_ACCOUNT else form | {"to": self.contract}


class Client:
    """Typed requests to one node.

    Args:
        transport: how to reach it.
        config: patience and profile; the profile's chain id is checked before anything else.
        sleep: seconds to wait between attempts.
    """

    def __init__(
        self, transport: Transport, config: Config, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.config = config
        self._transport = transport
        self._sleep = sleep
        self._checked: int | None = None  # the chain id, forgotten when the node goes away

    @property
    def chain_id(self) -> int:
        """The chain's id.

        Raises:
            WrongChainError: it is not the profile's.
            ChainUnavailableError: the node does not answer.
        """
        if self._checked is None:
            found = answers.count(self._retried("eth_chainId"))
            wanted = self.config.profile.chain_id
            if wanted not in (None, found):
                raise WrongChainError(
                    f"the node serves chain {found}, this home lives on chain {wanted}; "
                    "point --chain to the right node"
                )
            self._checked = found
        return self._checked

    def ping(self) -> None:
        """Ask the node once, without patience.

        Raises:
            ChainUnavailableError: it does not answer.
        """
        answers.count(self._once("eth_blockNumber", ()))

    def height(self, tag: Finality = "latest") -> int:
        """The number of the newest block, or of the newest that counts as `tag`."""
        if tag == "latest":
            return answers.count(self.read("eth_blockNumber"))
        block = self.block(tag)
        return 0 if block is None else block.number

    def final_height(self) -> int:
        """The newest block that the profile trusts to stay."""
        return self.height(self.config.profile.finality)

    def block(self, tag: Tag) -> Block | None:
        """A block by number or tag, None when there is none."""
        number = hex(tag) if isinstance(tag, int) else tag
        return answers.block(self.read("eth_getBlockByNumber", number, False))

    def newest(self) -> Block:
        """The newest block."""
        block = self.block("latest")
        if block is None:
            raise ChainUnavailableError("the node has no block yet; try again later")
        return block

    def now_s(self, clock_us: int) -> int:
        """Unix seconds that the next block will be at least, given this computer's clock.

        An idle development chain makes no block, so its newest one may be long ago.
        """
        return max(self.newest().timestamp, clock_us // 1_000_000)

    def reach(self, height: int, timeout_s: float) -> None:
        """Wait until a block of that number exists; a development chain is told to mine it.

        Raises:
            ChainUnavailableError: the time is over.
        """
        pauses = max(1, round(timeout_s / self.config.profile.block_time_s))
        for _ in range(pauses):
            missing = height - self.height()
            if missing <= 0:
                return
            if self.config.profile.is_development:
                self._once("anvil_mine", [hex(missing)])
            else:
                self._sleep(self.config.profile.block_time_s)
        if self.height() < height:
            raise ChainUnavailableError(f"block {height} did not come within {timeout_s:g} s")

    def balance(self, account: Account) -> Wei:
        """Gas money of an account, in wei of the chain's own coin."""
        return answers.amount(self.read("eth_getBalance", account, "latest"))

    def nonce(self, account: Account, tag: Tag | str = "pending") -> int:
        """How many transactions an account has sent, as of `tag`."""
        return answers.count(self.read("eth_getTransactionCount", account, tag))

    def has_code(self, account: Account) -> bool:
        """Whether a contract stands there."""
        return answers.raw(self.read("eth_getCode", account, "latest")) != b""

    def tip(self) -> Wei:
        """Wei per gas that the node suggests to add to the base fee."""
        return answers.amount(self.read("eth_maxPriorityFeePerGas"))

    def call(self, message: Message, tag: Tag = "latest") -> bytes:
        """Run a message and return its output.

        Raises:
            ChainRejectedError: the contract refused; the reason is in the message.
        """
        number = hex(tag) if isinstance(tag, int) else tag
        return answers.raw(self.read("eth_call", message.form(), number))

    def estimate(self, message: Message) -> int:
        """Gas that a transaction would need now.

        Raises:
            ChainRejectedError: it would fail; `details["kind"]` is "run" when the contract
                refused, "node" when the node did, for lack of funds for example.
        """
        return answers.count(self.read("eth_estimateGas", message.form()))

    def receipt(self, tx_hash: Digest) -> Receipt | None:
        """The receipt of a mined transaction, None when there is none."""
        found = self.read("eth_getTransactionReceipt", "0x" + tx_hash)
        return answers.receipt(found, tx_hash)

    def logs(self, first: int, last: int, contracts: Sequence[Account]) -> list[Log]:
        """Logs of these contracts in a range of blocks, in order."""
        wanted = {"fromBlock": hex(first), "toBlock": hex(last), "address": list(contracts)}
        return answers.logs(self.read("eth_getLogs", wanted))

    def send(self, raw: bytes) -> None:
        """Hand over a signed transaction, once.

        Raises:
            ChainUnavailableError: no answer: whether it was accepted is unknown.
            ChainRejectedError: the node refused it; `details["kind"]` is "node".
        """
        _ = self.chain_id
        self._once("eth_sendRawTransaction", ("0x" + raw.hex(),))

    def read(self, method: str, *params: object) -> object:
        """One request that may be repeated; the chain's identity is checked first."""
        _ = self.chain_id
        return self._retried(method, *params)

    def _retried(self, method: str, *params: object) -> object:
        pause = self.config.retry_pause_s
        for _ in range(self.config.read_attempts - 1):
            try:
                return self._once(method, params)
            except ChainUnavailableError:
                self._sleep(pause)
                pause *= 2
        return self._once(method, params)

    def _once(self, method: str, params: Sequence[object]) -> object:
        try:
            answer = self._transport.make_request(method, list(params))
        except ChainUnavailableError:
            self._checked = None  # another node may answer next time
            raise
        except OSError as error:  # what web3.py's providers raise
            self._checked = None
            raise ChainUnavailableError(f"the chain does not answer: {error}") from error
        found = answers.result_of(answer)
        if isinstance(found, Refusal):
            _refuse(found)
        return found


def _refuse(error: Refusal) -> NoReturn:
    code, message = error.code, error.message
    has_bytes = isinstance(error.data, str) and error.data.startswith("0x")
    raw = answers.raw(error.data) if has_bytes else b""
    if code == _REVERTED or raw or any(word in message.lower() for word in _FAILED_RUNS):
        reason = revert_reason(raw) or message
        raise ChainRejectedError(f"the contract refused: {reason}", kind="run", reason=reason)
    if code in _BUSY_CODES:
        raise ChainUnavailableError(f"the node is busy: {message}; try again later")
    raise ChainRejectedError(f"the node refused: {message}", kind="node", reason=message)
