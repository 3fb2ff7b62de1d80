"""What the web needs of one paid inference, and how its blocking tokens reach an async socket.

One piece of text is pulled at a time, so the flow behind never runs ahead of the socket: a piece
counts as handed over when the next one is asked for.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Protocol, TypeVar

import anyio
import msgspec
from anyio import CapacityLimiter
from anyio.abc import TaskGroup
from anyio.to_thread import run_sync
from starlette.requests import Request

from openledger.core.errors import OpenLedgerError
from openledger.core.types import Account, ReceiptId, Wei

T = TypeVar("T")


class Payer(msgspec.Struct, frozen=True):
    """Who a bearer key stands for."""

    account: Account
    key: str | None = None  # the public prefix of its API key; None: the owner of this home
    key_daily_cap: Wei | None = None
    key_total_cap: Wei | None = None


class Message(msgspec.Struct, frozen=True):
    """One turn of a chat."""

    role: str  # system, user or assistant
    content: str


class InferenceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One paid call, still in text; exactly one of `messages` and `prompt` is given."""

    payer: Payer
    model: str  # owner/name, owner/name@version or mix:...
    messages: tuple[Message, ...] | None = None
    prompt: str | None = None
    max_tokens: int | None = None  # None: the model's default
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    max_cost: Wei | None = None
    is_audited: bool = False  # attributed with the release's half-data adapters, too
    idempotency_key: str | None = None  # the same key and request are one call, charged once
    is_streamed: bool = False  # False: nothing reaches the caller before the whole answer is there


class RolePart(msgspec.Struct, frozen=True):
    """What the split policy sets aside of the fee for one role."""

    role: str  # a field of SplitPolicy
    amount: Wei


class InferenceResult(msgspec.Struct, frozen=True):
    """How a call ended; its call receipt is stored."""

    text: str
    finish_reason: str  # stop or length
    prompt_tokens: int
    completion_tokens: int
    fee: Wei
    parts: tuple[RolePart, ...]  # in the policy's order; they sum to the fee
    is_attributed: bool = False  # its statement is made: a repeated call's may be
    settled: int | None = None  # the epoch that drew the fee
    cached_tokens: int = 0  # of the prompt, read for this payer before


class Inference(Protocol):
    """One call in progress, for one reader; `cancel` may come while another thread reads."""

    @property
    def receipt_id(self) -> ReceiptId: ...

    @property
    def model(self) -> str:
        """What answers: owner/name@version, or a mix of such with their weights."""
        ...

    @property
    def fingerprint(self) -> str:
        """Short hash of base, adapter and engine."""
        ...

    def __iter__(self) -> Iterator[str]:
        """The pieces of text; each step blocks until there is one. Errors are the engine's."""
        ...

    def result(self) -> InferenceResult:
        """Settle the call, after the last piece; again gives the same."""
        ...

    def cancel(self) -> None:
        """Stop and settle what was handed over; harmless at any time and twice."""
        ...


class Inferences(Protocol):
    """Starts paid calls."""

    def start(self, request: InferenceRequest) -> Inference:
        """Check, hold the money, allot the receipt and queue the call; blocks briefly.

        Raises:
            InvalidInputError, NotFoundError, NotAllowedError, InsufficientBalanceError,
            ConflictError, UnavailableError: nothing was held or charged.
        """
        ...


class Feed:
    """An inference for async readers; whoever opens it must `close` it, come what may."""

    def __init__(self, inference: Inference, threads: CapacityLimiter) -> None:
        self._inference = inference
        self._threads = threads
        self._pieces = iter(inference)
        self._result: InferenceResult | None = None

    async def __aiter__(self) -> AsyncGenerator[str]:
        # Abandoned when the caller hangs up: `close` then ends the wait inside the thread.
        while (piece := await self._run(self._next, abandon=True)) is not None:
            yield piece

    async def result(self) -> InferenceResult:
        """Settle the call, after its last piece."""
        with anyio.CancelScope(shield=True):
            result = self._result = await self._run(self._inference.result)
        return result

    async def close(self) -> None:
        """Cancel the call unless it came to its end; nothing interrupts this."""
        if self._result is None:
            with anyio.CancelScope(shield=True):
                await self._run(self._inference.cancel)

    async def _run(self, function: Callable[[], T], *, abandon: bool = False) -> T:
        return await run_sync(function, limiter=self._threads, abandon_on_cancel=abandon)

    def _next(self) -> str | None:
        return next(self._pieces, None)


async def finish(feed: Feed, request: Request) -> InferenceResult | None:
    """Read to the end without streaming; None when the caller hung up meanwhile."""

    async def read() -> InferenceResult:
        async with aclosing(aiter(feed)) as pieces:
            async for _ in pieces:
                pass
        return await feed.result()

    try:
        return await unless_gone(request, read)
    finally:
        await feed.close()


async def unless_gone(request: Request, work: Callable[[], Awaitable[T]]) -> T | None:
    """What comes of the work; None when the caller hung up meanwhile, which cancels it."""
    result: T | None = None
    failure: OpenLedgerError | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(_cancel_on_disconnect, request, group)
        try:
            result = await work()
        except OpenLedgerError as error:
            failure = error  # raised below: the group would wrap it
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return result


async def _cancel_on_disconnect(request: Request, group: TaskGroup) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    group.cancel_scope.cancel()
