"""The same flow on the embedded chain, through web3.py, and on anvil when it is there."""

from collections.abc import Iterator
from pathlib import Path

import platformdirs
import pytest

from openledger.chain.config import ANVIL
from openledger.chain.devchain import anvil
from openledger.chain.wire.transport import HttpTransport
from openledger.core.errors import ChainRejectedError, ChainUnavailableError, UnavailableError
from openledger.core.types import WEI_PER_OPEN
from tests.chain.home import Home, digest

CACHE = platformdirs.user_cache_path("openledger") / "anvil"


def flow(home: Home) -> list[str]:
    """A bit of everything; returns the names of the events it left."""
    alice = home.account("user/alice")
    home.act("user/alice", "Datanets", "create", digest("folk"), digest("rules"), 2_000, 90)
    home.act("user/bob", "Datanets", "commit", 1, digest("commitment"))
    with pytest.raises(ChainRejectedError, match="datanets: not to be approved"):
        home.act("user/alice", "Datanets", "approve", 1)
    home.act("operator", "OpenToken", "transfer", alice, 3 * WEI_PER_OPEN)
    home.act("user/alice", "Escrow", "deposit", alice, home.operator, WEI_PER_OPEN, digest("op"))
    home.client.reach(home.client.height() + 3, 10)
    home.indexer.poll()
    assert home.contracts.call("Escrow", "balance_of", alice, home.operator) == (WEI_PER_OPEN, 0, 0)
    return [event.event for event in home.indexer.events()]


EVENTS = [
    "Transfer",
    "Created",
    "Committed",
    "Transfer",
    "Deposited",
    "AuthorizationUsed",
    "Transfer",
]


def test_the_flow_on_the_embedded_chain(home: Home) -> None:
    assert flow(home) == EVENTS


def test_web3_works_on_the_embedded_chain(home: Home) -> None:
    from web3 import Web3

    from openledger.chain.contracts import artifact
    from openledger.chain.devchain.provider import DevChainProvider

    assert home.chain is not None
    web3 = Web3(DevChainProvider(home.chain))
    address = Web3.to_checksum_address(home.deployment.open_token)
    guardian = Web3.to_checksum_address(home.account("guardian"))
    token = web3.eth.contract(address=address, abi=artifact("OpenToken").abi)
    holder = Web3.to_checksum_address(home.operator)
    key = home.keyring.private_key("operator")
    transfer = token.functions.transfer(guardian, 5).build_transaction(
        {"from": holder, "nonce": web3.eth.get_transaction_count(holder)}
    )
    signed = web3.eth.account.sign_transaction(transfer, key)
    sent = web3.eth.send_raw_transaction(signed.raw_transaction)
    receipt = web3.eth.wait_for_transaction_receipt(sent)

    assert web3.is_connected()
    assert receipt["status"] == 1
    assert token.events.Transfer().process_receipt(receipt)[0]["args"]["value"] == 5
    assert token.functions.balanceOf(guardian).call() == 5
    assert web3.eth.get_block("latest")["hash"] == receipt["blockHash"]


@pytest.fixture
def anvil_home(tmp_path: Path) -> Iterator[Home]:
    binary = anvil.find(CACHE)
    if binary is None:
        pytest.skip(f"anvil is neither on the PATH nor in {CACHE}: npm can fetch it")
    running = anvil.start(binary, tmp_path / "state.json", 31_337)
    transport = HttpTransport(running.url, 20)
    made = Home(tmp_path, transport, ANVIL)
    anvil.fund(running.url, made.operator, 10**24)
    made.deploy()
    yield made
    made.close()
    transport.close()
    running.close()


def test_the_flow_on_anvil(anvil_home: Home) -> None:
    assert flow(anvil_home) == EVENTS


def test_without_npm_the_cure_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert anvil.find(tmp_path) is None
    with pytest.raises(UnavailableError, match="no npm to fetch it"):
        anvil.install(tmp_path)


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_npm_may_fail_or_bring_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    script(tmp_path / "bin" / "npm", "exit 1")
    with pytest.raises(UnavailableError, match="npm could not install"):
        anvil.install(tmp_path / "cache")
    script(tmp_path / "bin" / "npm", "exit 0")
    with pytest.raises(UnavailableError, match="without the binary"):
        anvil.install(tmp_path / "cache")

    binary = tmp_path / "cache" / "node_modules" / anvil._package() / "bin" / "anvil"
    script(tmp_path / "bin" / "npm", f"/bin/mkdir -p {binary.parent}; echo > {binary}")
    assert anvil.install(tmp_path / "cache") == binary
    on_path = script(tmp_path / "bin" / "anvil", "exit 3")
    assert anvil.install(tmp_path / "cache") == on_path
    with pytest.raises(ChainUnavailableError, match="ended with code 3"):
        anvil.start(on_path, tmp_path / "state.json", 5)


def test_an_anvil_that_never_answers_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = script(tmp_path / "anvil", "trap '' TERM; while true; do sleep 0.1; done")
    monkeypatch.setattr(anvil, "_START_TIMEOUT_S", 0.2)
    monkeypatch.setattr(anvil, "_STOP_TIMEOUT_S", 0.2)

    with pytest.raises(ChainUnavailableError, match="does not answer after"):
        anvil.start(silent, tmp_path / "state.json", 5)
