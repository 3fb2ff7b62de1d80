"""The routes that OpenAI's clients call: models, chat completions, completions.

The receipt's id is known before the first token: it is the header `OpenLedger-Receipt` and the tail
of the completion's id. A stream never carries a named event, and a chunk without choices only when
the client asked for usage, because naive clients break on both.
"""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Literal, Protocol

import msgspec
from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import APIRouter, Request, Response
from sse_starlette import EventSourceResponse
from starlette.types import Receive, Scope, Send

from openledger.core.errors import InvalidInputError, NotFoundError, OpenLedgerError
from openledger.core.money import CURRENCY, to_open
from openledger.settlement.price import TOKENS_PER_PRICE, Price
from openledger.web.errors import CLIENT_CLOSED_REQUEST, envelope, json_response
from openledger.web.guard import Door
from openledger.web.inference import (
    Feed,
    InferenceResult,
    Inferences,
    Payer,
    finish,
)
from openledger.web.wire import answers
from openledger.web.wire.answers import CHAT, COMPLETION, Choice, Head, Style
from openledger.web.wire.calls import ParsedCall, parse_chat, parse_completion

_PING_S = 15
_LONGEST_KEY = 128
_DONE = "[DONE]"


class ModelCard(msgspec.Struct, frozen=True):
    """A release that can be called."""

    name: str  # owner/name@version, or a mix of such
    owner: str  # of a mix all of them, with a plus between
    created: int  # unix seconds
    base: str
    context: int  # tokens
    price: Price
    type: Literal["chat", "embedding"] = "chat"  # what it can be called for


class Catalogue(Protocol):
    """The releases that this server can call."""

    def models(self) -> tuple[ModelCard, ...]: ...

    def model(self, name: str) -> ModelCard:
        """One release, by name with or without a version; or a mix, which no list holds.

        Raises:
            NotFoundError: none; the message holds the nearest names.
            InvalidInputError, NotAllowedError: such a mix cannot be called.
        """
        ...


class Pricing(msgspec.Struct, frozen=True):
    """Prices as OpenRouter gives them: decimal strings for one token or request."""

    prompt: str
    completion: str
    request: str
    currency: str = CURRENCY


class ModelBody(msgspec.Struct, frozen=True):
    """A model as OpenAI's clients list it, and vLLM's and OpenRouter's additions."""

    id: str
    created: int
    owned_by: str
    parent: str
    root: str
    context_length: int
    pricing: Pricing
    type: Literal["chat", "embedding"]  # as Together's
    object: Literal["model"] = "model"


class ModelList(msgspec.Struct, frozen=True):
    """All of them."""

    data: tuple[ModelBody, ...]
    object: Literal["list"] = "list"


class OpenAiApi:
    """The routes under /v1 that other people's clients know."""

    def __init__(
        self,
        inferences: Inferences,
        catalogue: Catalogue,
        door: Door,
        threads: CapacityLimiter,
    ) -> None:
        """`threads` bounds how many calls can wait for a token at the same time."""
        self._inferences = inferences
        self._catalogue = catalogue
        self._door = door
        self._threads = threads

    def router(self) -> APIRouter:
        """The routes."""
        router = APIRouter(prefix="/v1")
        router.add_api_route("/models", self.list_models, methods=["GET"])
        router.add_api_route("/models/{name:path}", self.show_model, methods=["GET"])
        router.add_api_route("/chat/completions", self.chat, methods=["POST"])
        router.add_api_route("/completions", self.complete, methods=["POST"])
        router.add_api_route("/responses", self.responses, methods=["POST"])
        return router

    async def list_models(self, request: Request) -> Response:
        await self._door.admit(request)
        cards = await run_sync(self._catalogue.models, limiter=self._threads)
        return json_response(ModelList(tuple(_model_body(card) for card in cards)))

    async def show_model(self, request: Request) -> Response:
        await self._door.admit(request)
        name = request.path_params["name"]
        return json_response(_model_body(await run_sync(self._catalogue.model, name)))

    async def chat(self, request: Request) -> Response:
        return await self._answer(request, parse_chat, CHAT)

    async def complete(self, request: Request) -> Response:
        return await self._answer(request, parse_completion, COMPLETION)

    async def responses(self, request: Request) -> Response:
        await self._door.admit(request)
        raise NotFoundError("there is no /v1/responses here; call /v1/chat/completions instead")

    async def _answer(
        self,
        request: Request,
        parse: Callable[[bytes, Payer, str | None], ParsedCall],
        style: Style,
    ) -> Response:
        payer = await self._door.admit(request)
        max_cost = request.headers.get("OpenLedger-Max-Cost")
        parsed = parse(await request.body(), payer, max_cost)
        wanted = msgspec.structs.replace(parsed.request, idempotency_key=_idempotency_key(request))
        inference = await run_sync(self._inferences.start, wanted, limiter=self._threads)
        head = Head(inference.receipt_id, int(time.time()), inference.model, inference.fingerprint)
        feed = Feed(inference, self._threads)
        url = str(request.url_for("show_receipt", name=head.receipt_id))
        reply = _Reply(head, style, parsed, url)
        headers = {"OpenLedger-Receipt": str(head.receipt_id)}
        if parsed.request.is_streamed:
            return _Stream(reply.events(feed), feed, headers)
        result = await finish(feed, request)
        if result is None:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        headers["OpenLedger-Cost"] = to_open(result.fee)
        return json_response(reply.whole(result), headers=headers)


class _Reply:
    """One answer in one style, whole or in chunks."""

    def __init__(self, head: Head, style: Style, parsed: ParsedCall, url: str) -> None:
        self._head = head
        self._style = style
        self._parsed = parsed
        self._url = url

    def whole(self, result: InferenceResult) -> answers.Answer:
        return msgspec.structs.replace(
            self._chunk(self._style.whole(result.text, result.finish_reason)),
            object=self._style.whole_object,
            usage=answers.usage_of(result, self._head.receipt_id),
            openledger=self._details(result),
        )

    async def events(self, feed: Feed) -> AsyncGenerator[str]:
        """The data lines of a stream; an error after the first of them is a line as well."""
        style = self._style
        try:
            if style.opening is not None:
                yield _line(self._chunk(style.opening))
            async with aclosing(aiter(feed)) as pieces:
                async for piece in pieces:
                    yield _line(self._chunk(style.piece(piece, None)))
            result = await feed.result()
        except OpenLedgerError as error:
            yield _line(envelope(error))
            return
        last = self._chunk(style.piece("", result.finish_reason))
        yield _line(msgspec.structs.replace(last, openledger=self._details(result)))
        if self._parsed.includes_usage:
            usage = answers.usage_of(result, self._head.receipt_id)
            yield _line(msgspec.structs.replace(self._chunk(), usage=usage))
        yield _DONE

    def _chunk(self, *choices: Choice) -> answers.Answer:
        head, style = self._head, self._style
        return answers.Answer(
            id=style.id_prefix + head.receipt_id,
            object=style.chunk_object,
            created=head.created,
            model=head.model,
            system_fingerprint=head.fingerprint,
            choices=choices,
            # OpenAI sends null in every chunk when the last one will carry the usage.
            usage=None if self._parsed.includes_usage else msgspec.UNSET,
        )

    def _details(self, result: InferenceResult) -> answers.Details:
        return answers.Details(
            receipt=self._head.receipt_id,
            url=self._url,
            price=answers.PriceBody(to_open(result.fee)),
            attribution="complete" if result.is_attributed else "pending",
            settled=result.settled,
            warnings=self._parsed.warnings or msgspec.UNSET,
        )


class _Stream(EventSourceResponse):
    """A stream that closes its feed even if not one byte of it could be sent."""

    def __init__(self, events: AsyncGenerator[str], feed: Feed, headers: dict[str, str]) -> None:
        super().__init__(events, headers=headers, ping=_PING_S, sep="\n")
        self._feed = feed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._feed.close()


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not 0 < len(key) <= _LONGEST_KEY:
        raise InvalidInputError(f"an Idempotency-Key has 1 to {_LONGEST_KEY} characters")
    return key


def _line(body: object) -> str:
    return msgspec.json.encode(body).decode()


def _model_body(card: ModelCard) -> ModelBody:
    pricing = Pricing(
        prompt=to_open(card.price.input_1k, TOKENS_PER_PRICE),
        completion=to_open(card.price.output_1k, TOKENS_PER_PRICE),
        request=to_open(card.price.request),
    )
    return ModelBody(
        id=card.name,
        created=card.created,
        owned_by=card.owner,
        parent=card.base,
        root=card.name,
        context_length=card.context,
        pricing=pricing,
        type=card.type,
    )
