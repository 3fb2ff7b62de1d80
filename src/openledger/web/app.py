"""The HTTP application, put together from what `wiring` hands over."""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import cast

import msgspec
from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from openledger.core.errors import NotFoundError, OpenLedgerError, UnavailableError
from openledger.flows.money.infer.meter import Answered
from openledger.serving.engine import Stats
from openledger.web.description import describe
from openledger.web.embeddings import Embeddings, EmbeddingsApi
from openledger.web.errors import (
    UnsupportedMediaError,
    json_response,
    on_bug,
    on_hang_up,
    on_openledger_error,
    plain_error_response,
)
from openledger.web.guard import LOOPBACK_HOSTS, Door, Gate, Keys, Limits, Pace, check_loopback
from openledger.web.inference import Inferences
from openledger.web.metrics import exposition
from openledger.web.openai_api import Catalogue, OpenAiApi
from openledger.web.operations.api import PREFIX, OperationsApi, Run
from openledger.web.platform_api import Books, EvidenceOf, PlatformApi


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the server behaves at its edge."""

    hosts: tuple[str, ...] = tuple(sorted(LOOPBACK_HOSTS))  # names it answers to, without port
    max_body_bytes: int = 1 << 20
    max_upload_bytes: int = 64 << 20  # of what an operation is given
    slow_reader_s: float = 30.0  # how long a caller of a stream may take nothing of it
    max_calls: int = 256  # calls that wait for a token at the same time, each in a thread


class Parts(msgspec.Struct, frozen=True):
    """What the routes call."""

    inferences: Inferences
    catalogue: Catalogue
    keys: Keys
    books: Books
    pace: Pace
    stats: Callable[[], Stats]
    answered: Callable[[], Mapping[str, Answered]]  # by release, since the start
    unready: Callable[[], str | None]  # why not ready; None: ready
    embeddings: Embeddings | None = None
    evidence: EvidenceOf | None = None
    rpc: Callable[[bytes], bytes] | None = None  # JSON-RPC of the embedded chain
    operations: Run | None = None  # for the commands of the home's owner
    token: str = ""  # of server.json, which those commands show


class Health(msgspec.Struct, frozen=True):
    """What /healthz and /readyz say."""

    status: str


def create_app(parts: Parts, config: Config) -> FastAPI:
    """Mount every route behind the gate."""
    threads = CapacityLimiter(config.max_calls)
    door = Door(parts.keys, parts.pace, threads)
    operations = _Operations(parts)
    app = FastAPI(title="OpenLedger", docs_url=None, redoc_url=None, openapi_url=None)
    api = OpenAiApi(parts.inferences, parts.catalogue, door, threads, config.slow_reader_s)
    app.include_router(api.router())
    if parts.embeddings is not None:
        app.include_router(EmbeddingsApi(parts.embeddings, door, threads).router())
    app.include_router(PlatformApi(parts.books, parts.evidence, door, threads).router())
    if parts.operations is not None:
        app.include_router(OperationsApi(parts.operations, parts.token).router())
    app.add_api_route("/openapi.json", operations.description, methods=["GET"])
    app.add_api_route("/healthz", operations.health, methods=["GET"])
    app.add_api_route("/readyz", operations.ready, methods=["GET"])
    app.add_api_route("/metrics", operations.metrics, methods=["GET"])
    app.add_api_route("/rpc", operations.rpc, methods=["POST"])
    app.add_exception_handler(OpenLedgerError, on_openledger_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(ClientDisconnect, on_hang_up)
    app.add_exception_handler(Exception, on_bug)
    hosts = frozenset(host.lower() for host in config.hosts)
    limits = Limits(config.max_body_bytes, PREFIX, config.max_upload_bytes)
    app.add_middleware(Gate, hosts=hosts, limits=limits)
    return app


class _Operations:
    """Routes for whoever runs the server."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def health(self, _: Request) -> Response:
        return json_response(Health("ok"))

    async def description(self, _: Request) -> Response:
        return json_response(describe())

    async def ready(self, _: Request) -> Response:
        reason = await run_sync(self._parts.unready)
        if reason is not None:
            raise UnavailableError(f"not ready: {reason}")
        return json_response(Health("ready"))

    async def metrics(self, _: Request) -> Response:
        stats = await run_sync(self._parts.stats)
        text = exposition(stats, self._parts.answered())
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def rpc(self, request: Request) -> Response:
        check_loopback(request)
        if self._parts.rpc is None:
            raise NotFoundError("this server runs no chain of its own; use its chain's own URL")
        # A foreign web page can post text, but not JSON, without asking the server first.
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            raise UnsupportedMediaError("JSON-RPC is application/json; set the header Content-Type")
        reply = await run_sync(self._parts.rpc, await request.body())
        return Response(reply, media_type="application/json")


async def _on_http_error(request: Request, error: Exception) -> Response:
    found = cast(HTTPException, error)  # the handler is registered for it alone
    status = found.status_code
    phrase = HTTPStatus(status).phrase.lower()
    message = f"{request.method} {request.url.path}: {phrase}"
    response = plain_error_response(status, phrase.replace(" ", "_"), message)
    response.headers.update(found.headers or {})  # of a 405, the methods that there are
    return response
