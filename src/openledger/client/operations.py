"""Ask the server that owns a home to run an operation."""

from typing import TypeVar

import httpx
import msgspec

from openledger.core import errors
from openledger.core.encoding import from_wire, to_wire

Result = TypeVar("Result", bound=msgspec.Struct)

# Settling an epoch or importing a Datanet takes a while; the server says so by staying silent.
_TIMEOUT_S = 900.0


class _Failure(msgspec.Struct, frozen=True):
    message: str
    code: str


class _ErrorBody(msgspec.Struct, frozen=True):
    error: _Failure


def call_server(
    url: str, token: str, name: str, arguments: msgspec.Struct, kind: type[Result]
) -> Result:
    """Run an operation on a server.

    Raises:
        UnavailableError: the server does not answer.
        OpenLedgerError: what the operation raised there.
    """
    try:
        answer = httpx.post(
            f"{url}/api/operations/{name}",
            content=to_wire(arguments),
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
            timeout=_TIMEOUT_S,
        )
    except httpx.HTTPError as error:
        raise errors.UnavailableError(f"the server at {url} does not answer: {error}") from error
    if answer.is_error:
        raise _error(answer.content)
    return from_wire(answer.content, kind)


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
