"""Callers who leave at every stage, or never read: over sockets, on a real engine, for money."""

import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from openledger.core.types import Wei
from openledger.settlement.price import fee
from openledger.storage.records.model import releases
from tests import market as fair
from tests.served import Served, serve_tiny, wait_until

REELS, JIGS = "openledger/reels@1", "openledger/jigs@1"
MIX = f"mix:{REELS}*0.7+{JIGS}*0.3"
PROMPT = "X:1\nT:The Open Door\n"
TOKENS = 12
LONG = 480
SLOW_S = 1
PIECE = re.compile(rb'"text":"[^"]')


@pytest.fixture(scope="module")
def served(market_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("hanging up") / "home"
    with serve_tiny(market_home, home, slow_reader_s=SLOW_S) as served:
        yield served
        assert served.engine.stats().active == 0


class Caller:
    """A connection with a call on it, in the caller's own hands; `close` hangs up."""

    def __init__(self, served: Served, *, receive_bytes: int = 65_536, **changes: object) -> None:
        body = json.dumps(asked() | {"stream": True} | changes).encode()
        url = httpx.URL(served.url)
        head = (
            f"POST {url.path}/completions HTTP/1.1\r\nHost: {url.host}\r\n"
            f"Authorization: Bearer {served.key}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self.got = b""
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self._socket.settimeout(30)
        self._socket.connect((url.host, url.port))
        self._socket.sendall(head.encode() + body)

    def read_to(self, pattern: re.Pattern[bytes]) -> None:
        while not pattern.search(self.got):
            more = self._socket.recv(4_096)
            assert more, f"the answer ended without {pattern}: {self.got!r}"
            self.got += more

    def read_to_end(self) -> None:
        try:
            while more := self._socket.recv(65_536):
                self.got += more
        except ConnectionResetError:
            pass  # dropped, as far as this end can see

    @property
    def receipt(self) -> str:
        found = re.search(rb"openledger-receipt: (\w+)", self.got)
        assert found is not None
        return found[1].decode()

    @property
    def text(self) -> str:
        lines = re.findall(rb"data: (\{.*\})", self.got)
        return "".join(json.loads(line)["choices"][0]["text"] for line in lines)

    def close(self) -> None:
        self._socket.close()


def asked(model: str = REELS) -> dict[str, object]:
    return {"model": model, "prompt": PROMPT, "temperature": 0, "max_tokens": TOKENS}


def plainly(served: Served, model: str = REELS) -> httpx.Response:
    headers = {"Authorization": f"Bearer {served.key}"}
    return httpx.post(f"{served.url}/completions", json=asked(model), headers=headers, timeout=60)


def balance(served: Served) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {served.key}"}
    found: dict[str, Any] = httpx.get(f"{served.url}/balance", headers=headers).json()
    return found


def billed(served: Served, receipt: str) -> dict[str, Any]:
    """The body of a call's receipt, once there is one."""
    url = f"{served.url}/receipts/{receipt}"
    wait_until(lambda: httpx.get(url).json()["call"] is not None)
    body: dict[str, Any] = httpx.get(url).json()["call"]["body"]
    return body


def cancelled(served: Served) -> int:
    return served.engine.stats().finished["cancelled"]


@pytest.mark.parametrize("is_streamed", [True, False])
def test_who_leaves_before_the_first_token_pays_for_no_answer(
    served: Served, is_streamed: bool
) -> None:
    prompt = plainly(served).json()["usage"]["prompt_tokens"]
    before, spent = cancelled(served), int(balance(served)["spent"])
    with served.held(0):
        caller = Caller(served, stream=is_streamed)
        wait_until(lambda: served.engine.stats().active == 1)
        caller.close()
        wait_until(lambda: balance(served)["held"] == "0")
    wait_until(lambda: cancelled(served) == before + 1)
    paid = Wei(int(balance(served)["spent"]) - spent)

    assert paid == (fee(fair.PRICE, prompt, 0) if is_streamed else 0)


def test_who_leaves_in_the_middle_pays_for_what_was_sent(served: Served) -> None:
    whole = plainly(served).json()["choices"][0]["text"]
    before = cancelled(served)
    with served.held(6):
        caller = Caller(served, max_tokens=LONG)
        caller.read_to(PIECE)
        caller.close()
        body = billed(served, caller.receipt)
    wait_until(lambda: cancelled(served) == before + 1)

    assert body["finish"] == "cancelled"
    assert len(PIECE.findall(caller.got)) <= body["output_tokens"] <= 6
    assert caller.text
    assert whole.startswith(caller.text)


@pytest.mark.parametrize("reads", [r'"finish_reason":"length"', "HTTP/1.1 200"])
def test_who_leaves_at_the_end_pays_for_all_of_it(served: Served, reads: str) -> None:
    before = served.engine.stats().finished
    caller = Caller(served)
    wait_until(lambda: served.engine.stats().finished["length"] == before["length"] + 1)
    caller.read_to(re.compile(reads.encode()))
    wait_until(lambda: balance(served)["held"] == "0")
    caller.close()
    body = billed(served, caller.receipt)

    assert (body["finish"], body["output_tokens"]) == ("length", TOKENS)
    assert cancelled(served) == before["cancelled"]


def test_who_never_reads_is_dropped_and_harms_nobody(served: Served) -> None:
    wanted = plainly(served).json()["choices"]
    silent = Caller(served, receive_bytes=2_048, model=MIX, max_tokens=LONG)
    wait_until(lambda: served.engine.stats().active == 1)
    other = plainly(served).json()["choices"]
    wait_until(lambda: balance(served)["held"] == "0")
    silent.read_to_end()
    body = billed(served, silent.receipt)

    assert other == wanted
    assert 1 <= body["output_tokens"] < LONG
    assert b"[DONE]" not in silent.got
    assert served.engine.stats().active == 0
    silent.close()


def test_an_adapter_that_is_unloaded_answers_who_has_begun_and_nobody_else(served: Served) -> None:
    wanted = plainly(served).json()["choices"][0]["text"]
    with served.platform.database.read() as transaction:
        (release,) = [one for one in releases.list_served(transaction) if one.full_name == REELS]
    unloading = threading.Thread(target=served.engine.unload, args=[release.adapter])
    with served.held(3):
        caller = Caller(served)
        caller.read_to(PIECE)
        unloading.start()
        wait_until(lambda: plainly(served).status_code == 404)
        is_waiting = unloading.is_alive()
    caller.read_to(re.compile(rb"\[DONE\]"))
    unloading.join(30)
    other = plainly(served, JIGS)
    served.platform.models.serve(release)
    again = plainly(served)

    assert is_waiting
    assert not unloading.is_alive()
    assert caller.text == again.json()["choices"][0]["text"] == wanted
    assert other.status_code == 200
    caller.close()
