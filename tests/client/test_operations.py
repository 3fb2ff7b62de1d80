"""The client of a home's server, against a real socket."""

import http.server
import threading
from collections.abc import Iterator

import msgspec
import pytest

from openledger.client.operations import call_server
from openledger.core.errors import (
    DuplicateError,
    InsufficientBalanceError,
    OpenLedgerError,
    UnavailableError,
)
from openledger.core.types import Wei


class Question(msgspec.Struct, frozen=True):
    amount: Wei
    raw: bytes


class Answer(msgspec.Struct, frozen=True):
    amount: Wei


class Listener(http.server.BaseHTTPRequestHandler):
    """Answers what it is told, and remembers what it was asked."""

    status = 200
    answer = b'{"amount":"7"}'
    asked: tuple[str, str | None, bytes] | None = None

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        Listener.asked = (self.path, self.headers["Authorization"], body)
        self.send_response(Listener.status)
        self.send_header("Content-Length", str(len(Listener.answer)))
        self.end_headers()
        self.wfile.write(Listener.answer)

    def log_message(self, format: str, *arguments: object) -> None:
        """Silence."""


@pytest.fixture
def url() -> Iterator[str]:
    Listener.status, Listener.answer = 200, b'{"amount":"7"}'
    server = http.server.HTTPServer(("127.0.0.1", 0), Listener)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def ask(url: str) -> Answer:
    return call_server(url, "secret", "wallet.deposit", Question(Wei(10**30), b"\0"), Answer)


def test_an_operation_travels_there_and_back(url: str) -> None:
    assert ask(url) == Answer(Wei(7))
    assert Listener.asked == (
        "/api/operations/wallet.deposit",
        "Bearer secret",
        b'{"amount":"1000000000000000000000000000000","raw":"AA=="}',
    )


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("insufficient_balance", InsufficientBalanceError),
        ("duplicate", DuplicateError),
        ("something_new", OpenLedgerError),
    ],
)
def test_an_error_there_is_the_same_error_here(
    url: str, code: str, kind: type[OpenLedgerError]
) -> None:
    Listener.status = 402
    Listener.answer = msgspec.json.encode({"error": {"code": code, "message": "no"}})

    with pytest.raises(kind, match="no") as caught:
        ask(url)
    assert type(caught.value) is kind


def test_something_else_than_openledger_is_told_apart(url: str) -> None:
    Listener.status, Listener.answer = 502, b"<html>Bad gateway</html>"

    with pytest.raises(UnavailableError, match="something else than OpenLedger"):
        ask(url)


def test_a_server_that_is_gone_is_named() -> None:
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:9 does not answer"):
        ask("http://127.0.0.1:9")
