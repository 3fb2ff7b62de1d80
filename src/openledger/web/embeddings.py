"""The route /v1/embeddings, and what it needs of what is behind it."""

from typing import Protocol

import anyio
import msgspec
import numpy as np
from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray

from openledger.web.errors import CLIENT_CLOSED_REQUEST
from openledger.web.guard import Door
from openledger.web.inference import Payer, unless_gone
from openledger.web.wire.embeddings import (
    Input,
    ParsedEmbeddings,
    embeddings_answer,
    parse_embeddings,
)


class EmbeddingCall(msgspec.Struct, frozen=True):
    """Texts to make vectors of."""

    payer: Payer
    model: str
    inputs: tuple[Input, ...]  # at least one, none of them empty
    dimensions: int | None = None  # the first so many, made of length 1 again; None: all


class Vectors(msgspec.Struct, frozen=True):
    """What came of it."""

    vectors: tuple[NDArray[np.float32], ...]  # (D,) each, of length 1, in the inputs' order
    tokens: int  # of all inputs


class PendingVectors(Protocol):
    """A call in progress, for one reader; `cancel` may come while another thread reads."""

    def result(self) -> Vectors:
        """Wait for all of them.

        Raises:
            EngineFullError: others took the places meanwhile.
            EngineFaultError, UnavailableError: the engine's.
        """
        ...

    def cancel(self) -> None:
        """Stop; harmless at any time and twice."""
        ...


class Embeddings(Protocol):
    """Makes vectors of texts."""

    def start(self, call: EmbeddingCall) -> PendingVectors:
        """Check, and queue what the engine takes at once; blocks briefly.

        Raises:
            InvalidInputError, NotFoundError, UnavailableError: nothing was queued.
        """
        ...


class EmbeddingsApi:
    """The route as OpenAI's clients know it."""

    def __init__(self, embeddings: Embeddings, door: Door, threads: CapacityLimiter) -> None:
        """`threads` bounds how many calls can wait for the engine at the same time."""
        self._embeddings = embeddings
        self._door = door
        self._threads = threads

    def router(self) -> APIRouter:
        """The route."""
        router = APIRouter(prefix="/v1")
        router.add_api_route("/embeddings", self.embed, methods=["POST"])
        return router

    async def embed(self, request: Request) -> Response:
        payer = await self._door.admit(request)
        parsed = parse_embeddings(await request.body())
        call = EmbeddingCall(payer, parsed.model, parsed.inputs, parsed.dimensions)
        pending = await run_sync(self._embeddings.start, call, limiter=self._threads)

        async def work() -> bytes:
            return await run_sync(
                _answer, parsed, pending, limiter=self._threads, abandon_on_cancel=True
            )

        try:
            body = await unless_gone(request, work)
        finally:
            with anyio.CancelScope(shield=True):
                await run_sync(pending.cancel, limiter=self._threads)
        if body is None:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        return Response(body, media_type="application/json")


def _answer(parsed: ParsedEmbeddings, pending: PendingVectors) -> bytes:
    found = pending.result()
    return msgspec.json.encode(embeddings_answer(parsed, found.vectors, found.tokens))
