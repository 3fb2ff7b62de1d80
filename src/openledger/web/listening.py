"""Where a server listens: its sockets, and the loopback URL by which this home's commands call it.

Commands must come over loopback (`guard.check_loopback`), so a server that listens on one other
address only listens on loopback as well, at the same port.
"""

import errno
import socket
from collections.abc import Iterable

import msgspec

from openledger.core.errors import InvalidInputError, UnavailableError
from openledger.web.guard import LOOPBACK_HOSTS

_LOOPBACK = "127.0.0.1"
_EVERYWHERE = frozenset({"", "0.0.0.0"})  # noqa: S104 - to be told apart, not to be bound


class Listening(msgspec.Struct, frozen=True):
    """Bound sockets of one port; `close` gives them back."""

    sockets: tuple[socket.socket, ...]
    url: str  # loopback

    def close(self) -> None:
        for one in self.sockets:
            one.close()


def listen(host: str, port: int) -> Listening:
    """Bind; port 0 takes a free one.

    Raises:
        UnavailableError: the port is taken.
        InvalidInputError: this machine has no such address, or the port needs more rights.
    """
    first = _bound(host, port)
    port = first.getsockname()[1]
    sockets = [first]
    if command_host(host) != host and host not in _EVERYWHERE:
        try:
            sockets.append(_bound(_LOOPBACK, port))
        except (UnavailableError, InvalidInputError):
            first.close()
            raise
    return Listening(tuple(sockets), f"http://{command_host(host)}:{port}")


def drop_slow_readers(sockets: Iterable[socket.socket], seconds: int) -> None:
    """Have the system close connections whose other end takes nothing for so long, where it can.

    Otherwise what was written to one would be kept until it reads or goes. Connections inherit it
    from the socket that accepts them.
    """
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # RFC 5482; Linux has it
        for one in sockets:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1_000 * seconds)


def command_host(host: str) -> str:
    """The loopback address that reaches a server listening on `host`."""
    return host if host in LOOPBACK_HOSTS else _LOOPBACK


def names(host: str, others: tuple[str, ...]) -> tuple[str, ...]:
    """The host names that a server answers to; a wildcard address is no name."""
    own = () if host in _EVERYWHERE else (host,)
    return (*sorted(LOOPBACK_HOSTS), *own, *others)


def _bound(host: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
    except OSError as error:
        made.close()
        if error.errno == errno.EADDRINUSE:
            raise UnavailableError(
                f"port {port} of {host} is taken; choose another with --port"
            ) from error
        raise InvalidInputError(
            f"cannot listen on port {port} of {host!r} ({error.strerror or error}); "
            "set serve.host to an IPv4 address of this machine, and a port you may use"
        ) from error
    return made
