"""Who may come in: host, size, key and pace.

A web page that a user visits can reach a server on their loopback by pointing its own name at it;
the check of the Host header is what stops it.
"""

import time
from collections.abc import Callable
from ipaddress import ip_address
from typing import Protocol
from uuid import uuid4

import msgspec
from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from openledger.core.errors import NotAllowedError, UnauthenticatedError
from openledger.web.errors import TooLargeError, error_response
from openledger.web.inference import Payer

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})


class Keys(Protocol):
    """Knows the hashes of all API keys."""

    def identify(self, key: str) -> Payer:
        """Whose key this is.

        Raises:
            UnauthenticatedError: unknown, revoked or expired.
        """
        ...


Pace = Callable[[Payer], None]  # raises RateLimitedError, with details["retry_after_s"]


def bearer(request: Request) -> str:
    """The key of a request.

    Raises:
        UnauthenticatedError: there is none.
    """
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise UnauthenticatedError(
            "no API key: send the header Authorization: Bearer sk-ol-..., or make a key with "
            "openledger wallet key"
        )
    return key.strip()


def check_loopback(request: Request) -> None:
    """Let only this machine in.

    Raises:
        NotAllowedError: the request comes from another one.
    """
    client = request.client.host if request.client else ""
    if not _is_loopback(client):
        raise NotAllowedError("this route answers on the machine itself only")


class Door:
    """Key, then pace: what stands before every route that costs money or shows one's own."""

    def __init__(self, keys: Keys, pace: Pace, threads: CapacityLimiter) -> None:
        self._keys = keys
        self._pace = pace
        self._threads = threads

    async def admit(self, request: Request) -> Payer:
        """Who calls.

        Raises:
            UnauthenticatedError: no key, an unknown one or a revoked one.
            RateLimitedError: too many calls.
        """
        payer = await run_sync(self._keys.identify, bearer(request), limiter=self._threads)
        self._pace(payer)
        return payer


class Limits(msgspec.Struct, frozen=True):
    """How large a body may be, in bytes; larger under one prefix, where files come in."""

    plain: int
    upload_prefix: str
    upload: int

    def of(self, path: str) -> int:
        """The limit of one route."""
        return self.upload if path.startswith(self.upload_prefix) else self.plain


class Gate:
    """Middleware: refuses foreign hosts and oversized bodies, numbers and times each answer."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str], limits: Limits) -> None:
        self._app = app
        self._hosts = hosts
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        limit = self._limits.of(scope["path"])
        send = _signed(send)
        if _host_name(headers.get("host", "")) not in self._hosts:
            error = NotAllowedError("this server does not answer to that host name")
            await error_response(error)(scope, receive, send)
        elif _stated_size(headers) > limit:
            await error_response(_too_large(limit))(scope, receive, send)
        else:
            await self._app(scope, _counted(receive, limit), send)


def _counted(receive: Receive, limit: int) -> Receive:
    """A body without a stated size is stopped where it grows too large."""
    taken = 0

    async def counted() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > limit:
            raise _too_large(limit)
        return message

    return counted


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(f"the body is larger than {limit} bytes; send less")


def _signed(send: Send) -> Send:
    started = time.perf_counter()
    request_id = f"req_{uuid4().hex}"

    async def signed(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = request_id
            headers["openai-processing-ms"] = str(round(1_000 * (time.perf_counter() - started)))
        await send(message)

    return signed


def _host_name(host: str) -> str:
    """Without the port; an IPv6 address without its brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _stated_size(headers: Headers) -> int:
    stated = headers.get("content-length", "")
    return int(stated) if stated.isascii() and stated.isdigit() else 0


def _is_loopback(client: str) -> bool:
    try:
        return ip_address(client).is_loopback
    except ValueError:
        return False
