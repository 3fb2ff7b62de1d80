"""A chain in memory that misbehaves on demand, behind the requests that our client makes.

Calldata says what a transaction does: `good…` is applied, `bad…` is refused when it is tried,
`trap…` only when it is mined, `after<good…>` is refused until that one is applied.
"""

from hashlib import sha256
from typing import Any

from eth_account import Account as Keys
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_utils.crypto import keccak
from hexbytes import HexBytes

from openledger.core.errors import ChainUnavailableError

CHAIN_ID = 7
GWEI = 10**9


class Killed(BaseException):
    """Stands for kill -9: nothing may catch it."""


class Mined:
    """One block; transactions with whether they succeeded."""

    def __init__(self, number: int, parent: str, salt: int, entries: list["Sent"]) -> None:
        self.number = number
        self.parent = parent
        self.entries = entries
        self.hash = sha256(f"{number}{parent}{salt}".encode()).hexdigest()
        self.results: list[bool] = []
        self.logs: list[dict[str, Any]] = []


class Sent:
    """A decoded transaction."""

    def __init__(self, raw: bytes) -> None:
        fields = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()
        self.raw = raw
        self.hash = keccak(raw).hex()
        self.sender = str(Keys.recover_transaction(raw)).lower()
        self.nonce = int(fields["nonce"])
        self.data = bytes(fields["data"])
        self.max_fee = int(fields["maxFeePerGas"])


class FakeChain:
    """Blocks, a pool of transactions, and faults."""

    def __init__(self, finality_depth: int = 12) -> None:
        self.finality_depth = finality_depth
        self.blocks = [Mined(0, "0" * 64, 0, [])]
        self.pool: list[Sent] = []
        self.seen: list[Sent] = []  # whatever any node was ever handed
        self.base_fee = GWEI
        self.is_down = False
        self.send_fault: str | None = None  # "lost" before or "unheard" after it was accepted
        self.kill_in: int | None = None  # requests until kill -9
        self.kill_after = False  # whether the request still takes effect
        self.requests: list[str] = []
        self._salt = 0

    def make_request(self, method: str, params: list[Any]) -> dict[str, Any]:
        self.requests.append(method)
        is_last = self._counts_down()
        if is_last and not self.kill_after:
            raise Killed
        if self.is_down:
            raise ChainUnavailableError("the fake chain is down")
        try:
            result = getattr(self, method)(*params)
        except RefusalError as refusal:
            answer = {"error": {"code": refusal.code, "message": str(refusal)}}
        else:
            answer = {"result": result}
        if is_last:
            raise Killed
        return answer

    def mine(self, count: int = 1) -> None:
        for _ in range(count):
            self._salt += 1
            block = Mined(len(self.blocks), self.blocks[-1].hash, self._salt, self._ready())
            for entry in block.entries:
                block.results.append(self._succeeds(entry, is_mined=True, block=block))
            taken = {(entry.sender, entry.nonce) for entry in block.entries}
            self.pool = [entry for entry in self.pool if (entry.sender, entry.nonce) not in taken]
            self.blocks.append(block)

    def reorganise(self, depth: int, *, keep: bool) -> None:
        """Take back blocks, mine as many others; `keep` puts their transactions in the pool."""
        depth = min(depth, len(self.blocks) - 1)
        lost = [
            entry for block in self.blocks[len(self.blocks) - depth :] for entry in block.entries
        ]
        del self.blocks[len(self.blocks) - depth :]
        if keep:
            self.pool = lost + self.pool
            self.mine(depth + 1)
        else:
            kept, self.pool = self.pool, []
            self.mine(depth + 1)
            self.pool = kept

    def applied(self) -> list[bytes]:
        """Calldata of the transactions that succeeded, in order."""
        return [
            entry.data
            for block in self.blocks
            for entry, succeeded in zip(block.entries, block.results, strict=True)
            if succeeded
        ]

    def count(self, sender: str, blocks: int | None = None) -> int:
        chosen = self.blocks if blocks is None else self.blocks[:blocks]
        return sum(entry.sender == sender for block in chosen for entry in block.entries)

    def eth_chainId(self) -> str:  # noqa: N802
        return hex(CHAIN_ID)

    def eth_blockNumber(self) -> str:  # noqa: N802
        return hex(len(self.blocks) - 1)

    def eth_maxPriorityFeePerGas(self) -> str:  # noqa: N802
        return hex(GWEI)

    def eth_getBlockByNumber(self, tag: str, _full: bool) -> dict[str, Any] | None:  # noqa: N802
        number = self._number(tag)
        if number >= len(self.blocks):
            return None
        block = self.blocks[number]
        return {
            "number": hex(number),
            "hash": "0x" + block.hash,
            "parentHash": "0x" + block.parent,
            "timestamp": hex(1_000 + number),
            "baseFeePerGas": hex(self.base_fee),
        }

    def eth_getTransactionCount(self, sender: str, tag: str) -> str:  # noqa: N802
        if tag == "pending":
            nonce = self.count(sender)
            pending = {entry.nonce for entry in self.pool if entry.sender == sender}
            while nonce in pending:
                nonce += 1
            return hex(nonce)
        return hex(self.count(sender, self._number(tag) + 1))

    def eth_estimateGas(self, form: dict[str, str]) -> str:  # noqa: N802
        self._try(bytes.fromhex(form["input"][2:]))
        return hex(50_000)

    def eth_call(self, form: dict[str, str], tag: str) -> str:
        data = bytes.fromhex(form["input"][2:])
        if data.startswith(b"trap"):
            raise RefusalError(3, "execution reverted: it was a trap")
        self._try(data)
        return "0x"

    def eth_sendRawTransaction(self, raw: str) -> str:  # noqa: N802
        fault, self.send_fault = self.send_fault, None
        if fault == "lost":
            raise ChainUnavailableError("the connection broke")
        entry = Sent(bytes.fromhex(raw[2:]))
        self.seen.append(entry)
        if entry.hash in {known.hash for known in self.pool}:
            raise RefusalError(-32000, "already known")
        if entry.nonce < self.count(entry.sender):
            raise RefusalError(-32000, "nonce too low")
        self._enter(entry)
        if fault == "unheard":
            raise ChainUnavailableError("the answer was lost")
        return "0x" + entry.hash

    def eth_getTransactionReceipt(self, wanted: str) -> dict[str, Any] | None:  # noqa: N802
        for block in self.blocks:
            for entry, succeeded in zip(block.entries, block.results, strict=True):
                if entry.hash == wanted[2:]:
                    return {
                        "blockNumber": hex(block.number),
                        "blockHash": "0x" + block.hash,
                        "status": hex(succeeded),
                        "gasUsed": hex(40_000),
                        "contractAddress": None,
                    }
        return None

    def eth_getLogs(self, wanted: dict[str, Any]) -> list[dict[str, Any]]:  # noqa: N802
        first, last = int(wanted["fromBlock"], 16), int(wanted["toBlock"], 16)
        return [
            log | {"blockNumber": hex(block.number), "blockHash": "0x" + block.hash}
            for block in self.blocks[first : last + 1]
            for log in block.logs
        ]

    def _enter(self, entry: Sent) -> None:
        rivals = [e for e in self.pool if (e.sender, e.nonce) == (entry.sender, entry.nonce)]
        if any(entry.max_fee < rival.max_fee * 110 // 100 for rival in rivals):
            raise RefusalError(-32000, "replacement transaction underpriced")
        self.pool = [known for known in self.pool if known not in rivals] + [entry]

    def _counts_down(self) -> bool:
        if self.kill_in is None:
            return False
        self.kill_in -= 1
        if self.kill_in > 0:
            return False
        self.kill_in = None
        return True

    def _number(self, tag: str) -> int:
        if tag in ("latest", "pending"):
            return len(self.blocks) - 1
        if tag in ("safe", "finalized"):
            return max(0, len(self.blocks) - 1 - self.finality_depth)
        return int(tag, 16)

    def _ready(self) -> list[Sent]:
        """What the next block takes: without nonce gaps, and at a fee that is enough."""
        taken: list[Sent] = []
        senders = sorted({entry.sender for entry in self.pool})
        for sender in senders:
            nonce = self.count(sender)
            own = {entry.nonce: entry for entry in self.pool if entry.sender == sender}
            while nonce in own and own[nonce].max_fee >= self.base_fee:
                taken.append(own[nonce])
                nonce += 1
        return taken

    def _succeeds(self, entry: Sent, *, is_mined: bool, block: Mined) -> bool:
        if is_mined and entry.data.startswith(b"trap"):
            return False
        try:
            self._try(entry.data, block)
        except RefusalError:
            return False
        return True

    def _try(self, data: bytes, block: Mined | None = None) -> None:
        if data.startswith(b"bad"):
            raise RefusalError(3, "execution reverted: it is bad")
        done = self.applied()
        if block is not None:
            pairs = zip(block.entries, block.results, strict=False)
            done += [entry.data for entry, succeeded in pairs if succeeded]
        if data.startswith(b"after") and data.removeprefix(b"after") not in done:
            raise RefusalError(3, "execution reverted: too early")


class RefusalError(Exception):
    """A JSON-RPC error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
