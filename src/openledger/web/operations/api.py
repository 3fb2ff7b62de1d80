"""Operations over loopback, for the commands of this home's owner."""

import hmac
from collections.abc import Callable

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request, Response

from openledger.core.errors import UnauthenticatedError
from openledger.web.guard import bearer, check_loopback

PREFIX = "/api/operations"

Run = Callable[[str, bytes], bytes]
"""Runs an operation by name; arguments and result in their wire form."""


class OperationsApi:
    """One route: POST /api/operations/NAME with the token of server.json."""

    def __init__(self, run: Run, token: str) -> None:
        self._run = run
        self._token = token

    def router(self) -> APIRouter:
        """The route."""
        router = APIRouter(prefix=PREFIX)
        router.add_api_route("/{name}", self.act, methods=["POST"])
        return router

    async def act(self, request: Request) -> Response:
        """Run an operation; loopback and the owner's token only."""
        check_loopback(request)
        if not hmac.compare_digest(bearer(request).encode(), self._token.encode()):
            raise UnauthenticatedError("operations need the token of this home's server.json")
        body = await request.body()
        result = await run_sync(self._run, request.path_params["name"], body)
        return Response(result, media_type="application/json")
