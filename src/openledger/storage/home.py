"""The home folder: where everything lies, and which one process owns it.

The owner holds a lock on `home/lock`, which the system gives back when the process dies. A server
says in `server.json` where it listens; commands use it while it lives.
"""

import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from openledger.core.errors import HomeBusyError, UnavailableError, full_disk
from openledger.storage.blobs import write_atomically

_TOKEN_BYTES = 32

_TRIES = 3
_PAUSE_S = 0.02


class Home(msgspec.Struct, frozen=True):
    """The paths of one home."""

    root: Path

    @property
    def database(self) -> Path:
        return self.root / "openledger.db"

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def chain(self) -> Path:
        return self.root / "chain"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def packed(self) -> Path:
        """Adapters as the engine reads them, made again when they are missing."""
        return self.root / "packed"

    @property
    def shelf(self) -> Path:
        """Adapters as another engine reads them, made again when they are missing."""
        return self.root / "shelf"

    @property
    def server_file(self) -> Path:
        return self.root / "server.json"

    @property
    def lock_file(self) -> Path:
        return self.root / "lock"

    def adapter(self, digest: str) -> Path:
        """The folder of an adapter."""
        return self.root / "adapters" / digest

    def run(self, run_id: str) -> Path:
        """The folder of a training run: checkpoints and logs."""
        return self.root / "runs" / run_id

    @contextmanager
    def own(self) -> Iterator[None]:
        """Own the home, made when missing, until the block ends or the process dies.

        Raises:
            HomeBusyError: another process owns it.
            StorageFullError: there is no room to make it.
        """
        with full_disk():
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(handle, self.root)
            # What a dead server left behind names a process that listens no more.
            self.server_file.unlink(missing_ok=True)
            yield
        finally:
            os.close(handle)

    def is_owned(self) -> bool:
        """Whether a living process owns the home; this one counts."""
        if not self.lock_file.exists():
            return False
        handle = os.open(self.lock_file, os.O_RDWR | os.O_CLOEXEC)
        try:
            # Shared, so that commands which ask at once do not take each other for the owner.
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False


class Server(msgspec.Struct, frozen=True):
    """Where the owner of a home listens."""

    url: str  # loopback
    token: str  # for the commands of this user alone
    pid: int


def new_token() -> str:
    """A random token for `Server`."""
    return secrets.token_urlsafe(_TOKEN_BYTES)


def write_server(home: Home, server: Server) -> None:
    """Tell commands where to find the server; readable by this user only.

    Raises:
        StorageFullError: the disk is full.
    """
    with full_disk():
        write_atomically(home.server_file, msgspec.json.encode(server))


def read_server(home: Home) -> Server | None:
    """Where the living owner listens; None when no server lives.

    Raises:
        UnavailableError: `server.json` is damaged.
    """
    if not home.is_owned():
        return None
    try:
        return msgspec.json.decode(home.server_file.read_bytes(), type=Server)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise UnavailableError(f"{home.server_file} is damaged: restart the server") from error


def remove_server(home: Home) -> None:
    """Tell commands that the server is gone."""
    home.server_file.unlink(missing_ok=True)


def _lock(handle: int, root: Path) -> None:
    for _ in range(_TRIES):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # A command that asks whether a server lives takes the lock for a moment.
            time.sleep(_PAUSE_S)
        else:
            return
    raise HomeBusyError(f"another process owns {root}: stop it, or choose another --home")
