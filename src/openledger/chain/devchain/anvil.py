"""Foundry's anvil as a development chain, when it is asked for: a binary that npm delivers.

It is looked for on the PATH and in a folder of the machine's cache, and installed there with npm
when it is nowhere. Its state is kept in one JSON file, written every few seconds and at the end.
"""

import platform
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Final

from openledger.chain.wire.transport import HttpTransport
from openledger.core.errors import ChainUnavailableError, UnavailableError

_VERSION: Final = "1.7.1"
_INSTALL_TIMEOUT_S: Final = 300
_START_TIMEOUT_S: Final = 30.0
_STOP_TIMEOUT_S: Final = 20
_STATE_INTERVAL_S: Final = 5
_PAUSE_S: Final = 0.02


class Anvil:
    """A running anvil on a loopback port; close it to stop it and to keep its state."""

    def __init__(self, process: "subprocess.Popen[bytes]", url: str) -> None:
        self._process = process
        self.url = url

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def find(cache: Path) -> Path | None:
    """The binary, on the PATH or installed in `cache` before; None when there is none."""
    found = shutil.which("anvil")
    if found is not None:
        return Path(found)
    installed = cache / "node_modules" / _package() / "bin" / "anvil"
    return installed if installed.exists() else None


def install(cache: Path) -> Path:
    """Find anvil, or fetch it into `cache` with npm.

    Raises:
        UnavailableError: there is no npm, or it could not install it.
    """
    found = find(cache)
    if found is not None:
        return found
    npm = shutil.which("npm")
    if npm is None:
        raise UnavailableError(
            "anvil is not on the PATH and there is no npm to fetch it; install one of them, or "
            "use the embedded chain"
        )
    cache.mkdir(parents=True, exist_ok=True)
    command = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(cache)]
    try:
        subprocess.run(  # noqa: S603 - our own command
            [*command, f"{_package()}@{_VERSION}"],
            check=True,
            capture_output=True,
            timeout=_INSTALL_TIMEOUT_S,
        )
    except (subprocess.SubprocessError, OSError) as error:
        raise UnavailableError(f"npm could not install anvil: {error}; try again later") from error
    found = find(cache)
    if found is None:
        raise UnavailableError(f"npm installed {_package()} without the binary; use another chain")
    return found


def start(binary: Path, state: Path, chain_id: int) -> Anvil:
    """Start anvil with the state it had and wait until it answers.

    Args:
        binary: from `find` or `install`.
        state: the file that keeps its state; made when missing.
        chain_id: of a new chain.

    Raises:
        ChainUnavailableError: it ended, or did not answer in time.
    """
    state.parent.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    options = {
        "--host": "127.0.0.1",
        "--port": str(port),
        "--chain-id": str(chain_id),
        "--state": str(state),
        "--state-interval": str(_STATE_INTERVAL_S),
        "--accounts": "1",
    }
    words = [word for pair in options.items() for word in pair]
    process = subprocess.Popen(  # noqa: S603 - our own command
        [str(binary), *words, "--preserve-historical-states", "--quiet"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    running = Anvil(process, f"http://127.0.0.1:{port}")
    try:
        _wait(process, running.url)
    except BaseException:
        running.close()
        raise
    return running


def fund(url: str, account: str, wei: int) -> None:
    """Give an account gas money out of nothing, as only anvil can."""
    transport = HttpTransport(url, _START_TIMEOUT_S)
    try:
        transport.make_request("anvil_setBalance", [account, hex(wei)])
    finally:
        transport.close()


def _wait(process: "subprocess.Popen[bytes]", url: str) -> None:
    transport = HttpTransport(url, 1.0)
    end = time.monotonic() + _START_TIMEOUT_S
    try:
        while time.monotonic() < end:
            if process.poll() is not None:
                raise ChainUnavailableError(f"anvil ended with code {process.returncode}")
            try:
                transport.make_request("eth_chainId", [])
            except ChainUnavailableError:
                time.sleep(_PAUSE_S)
            else:
                return
    finally:
        transport.close()
    raise ChainUnavailableError(f"anvil does not answer after {_START_TIMEOUT_S:g} s")


def _package() -> str:
    machine = {"x86_64": "amd64", "AMD64": "amd64", "aarch64": "arm64"}.get(
        platform.machine(), platform.machine()
    )
    return f"@foundry-rs/anvil-{platform.system().lower()}-{machine}"


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
