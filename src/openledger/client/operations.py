"""Ask the server that owns a home to run an operation."""

from http.client import HTTPConnection, HTTPException
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from openledger.core import errors
from openledger.core.encoding import from_wire, to_wire

Result = TypeVar("Result", bound=msgspec.Struct)

# Settling an epoch or importing a Datanet takes a while; the server says so by staying silent.
_TIMEOUT_S = 900.0
_DONE = 200


class _Failure(msgspec.Struct, frozen=True):
    message: str
    code: str


class _ErrorBody(msgspec.Struct, frozen=True):
    error: _Failure


class _Answer(msgspec.Struct, frozen=True):
    status: int
    body: bytes


def call_server(
    url: str, token: str, name: str, arguments: msgspec.Struct, kind: type[Result]
) -> Result:
    """Run an operation on a server.

    Raises:
        UnavailableError: the server does not answer.
        OpenLedgerError: what the operation raised there.
    """
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    try:
        answer = _post(url, f"/api/operations/{name}", to_wire(arguments), headers)
    except (OSError, HTTPException) as error:
        why = str(error) or type(error).__name__
        raise errors.UnavailableError(f"the server at {url} does not answer: {why}") from error
    if answer.status != _DONE:
        raise _error(answer.body)
    return from_wire(answer.body, kind)


def _post(url: str, path: str, body: bytes, headers: dict[str, str]) -> _Answer:
    # The standard library's client: the server is on loopback, and loading httpx takes as long as
    # all else that a command does.
    server = urlsplit(url)
    connection = HTTPConnection(server.hostname or "", server.port, timeout=_TIMEOUT_S)
    try:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        return _Answer(answer.status, answer.read())
    finally:
        connection.close()


def _error(body: bytes) -> errors.OpenLedgerError:
    try:
        failure = msgspec.json.decode(body, type=_ErrorBody).error
    except msgspec.MsgspecError:
        return errors.UnavailableError("the server answered with something else than OpenLedger")
    return _class_of(failure.code)(failure.message)


def _class_of(code: str) -> type[errors.OpenLedgerError]:
    known = [errors.OpenLedgerError]
    for kind in known:
        known += kind.__subclasses__()
    return next((kind for kind in known if kind.code == code), errors.OpenLedgerError)
