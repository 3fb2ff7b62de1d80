"""The same home's client over HTTP, as with any node."""

import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from openledger.chain import keys
from openledger.core.errors import WrongChainError
from openledger.settings import ChainSettings
from openledger.wiring.chain import open_chain
from openledger.wiring.platform import Platform

# Speaks just enough of anvil: it answers every request with the chain's id.
_ANVIL = f"""#!{sys.executable}
import http.server, sys
class Door(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        body = b'{{"jsonrpc":"2.0","id":1,"result":"0x7a69"}}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Door).serve_forever()
"""


@contextmanager
def door(platform: Platform) -> Iterator[str]:
    """The embedded chain behind a port of its own."""
    assert platform.chain.rpc is not None
    answer: Callable[[bytes], bytes] = platform.chain.rpc

    class Door(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = answer(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    thread = Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("kind", ["", "op+"])
def test_a_url_is_a_chain(market: Platform, tmp_path: Path, kind: str) -> None:
    with (
        door(market) as url,
        open_chain(
            ChainSettings(url=kind + url), tmp_path / "other", tmp_path, market.keyring
        ) as chain,
    ):
        assert chain.rpc is None
        assert chain.client.height() == market.chain.client.height()
        assert chain.client.config.profile.is_op_stack is bool(kind)


def test_a_node_of_another_chain_than_the_chosen_one_gets_nothing(
    market: Platform, tmp_path: Path
) -> None:
    """Else the six contracts would be deployed, with real gas, wherever the URL leads."""
    keyring = keys.create(tmp_path / "keys", None)
    with (
        door(market) as url,
        open_chain(
            ChainSettings(url=url, chain_id=11_155_111), tmp_path / "chain", tmp_path, keyring
        ) as chain,
        pytest.raises(WrongChainError, match="serves chain 31337"),
    ):
        chain.client.height()


def test_anvil_is_started_and_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = tmp_path / "bin" / "anvil"
    binary.parent.mkdir()
    binary.write_text(_ANVIL)
    binary.chmod(binary.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{binary.parent}{os.pathsep}{os.environ['PATH']}")
    keyring = keys.create(tmp_path / "keys", None)

    with open_chain(ChainSettings(url="anvil"), tmp_path / "chain", tmp_path, keyring) as chain:
        assert chain.client.chain_id == 31_337
        assert chain.client.config.profile.is_development
    with pytest.raises(RuntimeError, match="closed"):
        chain.client.height()
