"""The client knows which chain it talks to, retries reads, and never retries a send."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from openledger.chain.client import Client, Message
from openledger.chain.config import ANVIL, EMBEDDED, EVM, OP_STACK, Config, profile_of
from openledger.chain.wire.transport import HttpTransport
from openledger.core.errors import (
    ChainRejectedError,
    ChainUnavailableError,
    InvalidInputError,
    WrongChainError,
)
from openledger.core.types import ZERO_ACCOUNT, Account
from tests.chain.fake_chain import FakeChain

WHO = Account("0x" + "11" * 20)


class Scripted:
    """Answers what it is told to, and counts."""

    def __init__(self, answer: Callable[[str], dict[str, Any]]) -> None:
        self.answer = answer
        self.asked: list[str] = []

    def make_request(self, method: str, params: list[object]) -> dict[str, Any]:
        self.asked.append(method)
        if method == "eth_chainId":
            return {"result": "0x7"}
        return self.answer(method)


def client(answer: Callable[[str], dict[str, Any]]) -> tuple[Client, Scripted, list[float]]:
    pauses: list[float] = []
    script = Scripted(answer)
    return Client(script, Config(profile=EVM), pauses.append), script, pauses


def down(_method: str) -> dict[str, Any]:
    raise ConnectionError("nobody there")


def test_reads_are_tried_again_with_growing_pauses() -> None:
    found, script, pauses = client(down)

    with pytest.raises(ChainUnavailableError, match="nobody there"):
        found.height()
    assert script.asked.count("eth_blockNumber") == 3
    assert pauses == [0.25, 0.5]


def test_a_ping_is_asked_once() -> None:
    found, script, pauses = client(down)

    with pytest.raises(ChainUnavailableError):
        found.ping()
    assert script.asked == ["eth_blockNumber"]
    assert pauses == []


def test_a_transaction_is_sent_once() -> None:
    found, script, _ = client(down)

    with pytest.raises(ChainUnavailableError):
        found.send(b"\x02")
    assert script.asked.count("eth_sendRawTransaction") == 1


def test_the_chain_is_checked_again_after_it_was_away() -> None:
    found, script, _ = client(down)
    assert found.chain_id == 7
    with pytest.raises(ChainUnavailableError):
        found.height()
    assert found.chain_id == 7

    assert script.asked.count("eth_chainId") == 2


def test_another_chain_is_refused() -> None:
    found = Client(FakeChain(), Config(profile=EMBEDDED))

    with pytest.raises(WrongChainError, match="serves chain 7, this home lives on chain 31337"):
        found.height()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"code": 3, "message": "execution reverted", "data": "0x"}, "run"),
        ({"code": -32000, "message": "execution reverted"}, "run"),
        ({"code": -32000, "message": "EVM error InvalidInstruction"}, "run"),
        ({"code": -32003, "message": "insufficient funds for gas"}, "node"),
    ],
)
def test_refusals_of_contract_and_node_are_told_apart(error: dict[str, Any], kind: str) -> None:
    found, _, _ = client(lambda _: {"error": error})

    with pytest.raises(ChainRejectedError) as caught:
        found.estimate(Message(WHO, WHO, b""))
    assert caught.value.details["kind"] == kind


@pytest.mark.parametrize(
    "answer", [{"error": {"code": -32005, "message": "too fast"}}, {"jsonrpc": "2.0"}]
)
def test_a_busy_or_silent_node_is_unavailable(answer: dict[str, Any]) -> None:
    found, _, _ = client(lambda _: answer)

    with pytest.raises(ChainUnavailableError):
        found.tip()


def test_missing_things_are_none() -> None:
    found, _, _ = client(lambda _: {"result": None})

    assert found.block(5) is None
    assert found.receipt("ab" * 32) is None  # type: ignore[arg-type]  # any digest
    assert found.height("finalized") == 0
    with pytest.raises(ChainUnavailableError):
        found.newest()


def test_a_creation_has_no_receiver() -> None:
    assert "to" not in Message(WHO, ZERO_ACCOUNT, b"").form()
    assert Message(WHO, WHO, b"").form()["to"] == WHO


def test_a_public_chain_is_waited_for() -> None:
    chain = FakeChain()
    found = Client(chain, Config(profile=EVM), sleep=lambda _: chain.mine())
    found.reach(3, 60)

    assert found.height() == 3
    stuck = Client(chain, Config(profile=EVM), sleep=lambda _: None)
    with pytest.raises(ChainUnavailableError, match="block 9 did not come within 24 s"):
        stuck.reach(9, 24)


@pytest.mark.parametrize(
    ("choice", "profile"),
    [("embedded", EMBEDDED), ("anvil", ANVIL)],
)
def test_chains_have_names(choice: str, profile: object) -> None:
    assert profile_of(choice) == profile


def test_any_node_can_be_named_by_its_url() -> None:
    assert profile_of("https://node.example").finality == EVM.finality
    assert profile_of("https://node.example").rpc_url == "https://node.example"
    assert profile_of("op+https://node.example").is_op_stack is OP_STACK.is_op_stack
    with pytest.raises(InvalidInputError, match="is no chain"):
        profile_of("ftp://node.example")


class Node(http.server.BaseHTTPRequestHandler):
    """Answers with what the class was told."""

    status, body = 200, b"{}"

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert request["method"] == "eth_chainId"
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Node)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_node_is_asked_over_http(url: str) -> None:
    Node.status, Node.body = 200, b'{"result": "0x7"}'
    transport = HttpTransport(url, 5)

    assert Client(transport, Config(profile=EVM)).chain_id == 7
    transport.close()


def test_an_answer_too_large_to_read_is_refused_so_that_less_is_asked(url: str) -> None:
    Node.status, Node.body = 200, b'{"result": "' + b"0" * 5_000 + b'"}'
    transport = HttpTransport(url, 5, largest_bytes=5_000)

    with pytest.raises(ChainRejectedError, match="more than 5000 bytes"):
        transport.make_request("eth_chainId", [])
    transport.close()


@pytest.mark.parametrize(
    ("status", "body"),
    [(503, b"{}"), (429, b"{}"), (200, b"<"), (200, b"1"), (200, b"[" * 9_999), (200, b"\xff")],
)
def test_what_is_no_answer_is_unavailable(url: str, status: int, body: bytes) -> None:
    Node.status, Node.body = status, body
    transport = HttpTransport(url, 5)

    with pytest.raises(ChainUnavailableError):
        transport.make_request("eth_chainId", [])
    transport.close()
