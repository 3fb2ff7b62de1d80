"""The one map from an error's class to an HTTP status, and the body that OpenAI's clients read."""

from http import HTTPStatus
from typing import cast

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from openledger.core.errors import (
    ConflictError,
    EngineFullError,
    InsufficientBalanceError,
    InvalidInputError,
    NotAllowedError,
    NotFoundError,
    OpenLedgerError,
    UnauthenticatedError,
    UnavailableError,
)

CLIENT_CLOSED_REQUEST = 499  # nginx's; nobody is left to read it


class TooLargeError(InvalidInputError):
    """The body is larger than this server takes."""

    code = "too_large"


class UnsupportedMediaError(InvalidInputError):
    """The body is not of the type this route reads."""

    code = "unsupported_media_type"


class RateLimitedError(UnavailableError):
    """Too many calls in too short a time."""

    code = "rate_limit_exceeded"


class ErrorBody(msgspec.Struct, frozen=True):
    """What went wrong and what to do about it."""

    message: str
    type: str
    code: str
    param: str | None


class ErrorEnvelope(msgspec.Struct, frozen=True):
    """The shape every client of OpenAI's API expects."""

    error: ErrorBody


# The first class that fits decides, so a subclass stands before its parent.
_STATUS: tuple[tuple[type[OpenLedgerError], int], ...] = (
    (TooLargeError, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (UnsupportedMediaError, HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
    (InvalidInputError, HTTPStatus.BAD_REQUEST),
    (UnauthenticatedError, HTTPStatus.UNAUTHORIZED),
    (InsufficientBalanceError, HTTPStatus.PAYMENT_REQUIRED),
    (NotAllowedError, HTTPStatus.FORBIDDEN),
    (NotFoundError, HTTPStatus.NOT_FOUND),
    (ConflictError, HTTPStatus.CONFLICT),
    (RateLimitedError, HTTPStatus.TOO_MANY_REQUESTS),
    (EngineFullError, HTTPStatus.TOO_MANY_REQUESTS),
    (UnavailableError, HTTPStatus.SERVICE_UNAVAILABLE),
)

_TYPES = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.PAYMENT_REQUIRED: "insufficient_balance",
    HTTPStatus.FORBIDDEN: "permission_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
}


def status_of(error: OpenLedgerError) -> int:
    """The HTTP status of an error; 500 for what is nobody's input."""
    fits = (status for kind, status in _STATUS if isinstance(error, kind))
    return int(next(fits, HTTPStatus.INTERNAL_SERVER_ERROR))


def envelope(error: OpenLedgerError) -> ErrorEnvelope:
    """The body that tells of an error."""
    return _envelope(status_of(error), error.code, str(error), error.details.get("param"))


def error_response(error: OpenLedgerError) -> Response:
    """The whole answer, with the headers that tell a client whether to try again."""
    status = status_of(error)
    headers = {}
    if status == HTTPStatus.CONFLICT:
        headers["x-should-retry"] = "false"  # OpenAI's client would repeat it otherwise
    if "retry_after_s" in error.details:
        headers["Retry-After"] = error.details["retry_after_s"]
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return json_response(envelope(error), status, headers)


def plain_error_response(status: int, code: str, message: str) -> Response:
    """The same shape for what the framework found, as an unknown path."""
    return json_response(_envelope(status, code, message, None), status)


def json_response(
    body: object, status: int = HTTPStatus.OK, headers: dict[str, str] | None = None
) -> Response:
    """A record as JSON."""
    return Response(msgspec.json.encode(body), status, headers, media_type="application/json")


async def on_openledger_error(_: Request, error: Exception) -> Response:
    """Exception handler for every error raised on purpose."""
    return error_response(cast(OpenLedgerError, error))  # the handler is registered for it alone


async def on_bug(_: Request, __: Exception) -> Response:
    """Exception handler for what nobody foresaw; the server logs it with its traceback."""
    message = "something broke on our side; it cost nothing, try again"
    return plain_error_response(HTTPStatus.INTERNAL_SERVER_ERROR, "failed", message)


def _envelope(status: int, code: str, message: str, param: str | None) -> ErrorEnvelope:
    fallback = "server_error" if status >= 500 else "invalid_request_error"
    kind = _TYPES.get(HTTPStatus(status), fallback)
    return ErrorEnvelope(ErrorBody(message, kind, code, param))
