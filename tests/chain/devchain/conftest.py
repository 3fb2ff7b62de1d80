"""A small chain with one rich account, and requests to it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account as Keys

from openledger.chain.devchain.node import DevChain
from openledger.chain.devchain.rpc import handle

RICH = Keys.from_key(b"\x01" * 32)
OTHER = "0x" + "11" * 20


class Node:
    """A chain and the ways to talk to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = 1_700_000_000.0
        self.chain = self.open()

    def open(self) -> DevChain:
        rich = bytes.fromhex(RICH.address[2:])
        return DevChain(self.path, 31_337, {rich: 10**24}, lambda: self.now)

    def ask(self, method: str, *params: Any) -> Any:  # noqa: ANN401 - any JSON
        answer = handle(self.chain, {"id": 1, "method": method, "params": list(params)})
        assert "error" not in answer, answer
        return answer["result"]

    def error(self, method: str, *params: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON
        answer = handle(self.chain, {"id": 1, "method": method, "params": list(params)})
        assert "result" not in answer, answer
        error: dict[str, Any] = answer["error"]
        return error

    def sign(self, **fields: Any) -> str:  # noqa: ANN401 - transaction fields
        if "nonce" not in fields:
            fields["nonce"] = int(self.ask("eth_getTransactionCount", RICH.address, "latest"), 16)
        whole: dict[str, Any] = {
            "chainId": 31_337,
            "type": 2,
            "gas": 100_000,
            "maxFeePerGas": 10**10,
            "maxPriorityFeePerGas": 10**9,
            "value": 0,
            "data": b"",
        } | fields
        if "to" in whole:
            whole["to"] = bytes.fromhex(whole["to"][2:])
        return "0x" + bytes(RICH.sign_transaction(whole).raw_transaction).hex()

    def send(self, **fields: Any) -> str:  # noqa: ANN401 - transaction fields
        return str(self.ask("eth_sendRawTransaction", self.sign(**fields)))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path / "chain.db")
    yield made
    made.chain.close()
