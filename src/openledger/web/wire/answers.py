"""What the completion routes answer, as the clients of OpenAI, LangChain and LiteLLM read it.

A record whose fields default to `UNSET` leaves them out: some clients take a present null for an
answer.
"""

from collections.abc import Callable
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from openledger.core.money import CURRENCY, to_open
from openledger.core.types import ReceiptId
from openledger.web.inference import InferenceResult


class PromptDetails(msgspec.Struct, frozen=True):
    """How the prompt was read."""

    cached_tokens: int  # they cost the same


class UsageBody(msgspec.Struct, frozen=True):
    """Tokens and cost; `cost` alone is a JSON number, because clients read it as one."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    cost: float
    cost_details: dict[str, str]  # by role of the split policy, decimal strings


class PriceBody(msgspec.Struct, frozen=True):
    """An amount of money."""

    amount: str
    currency: str = CURRENCY


class Details(msgspec.Struct, frozen=True):
    """The top-level object `openledger`; who made the answer is said by the receipt, later."""

    receipt: ReceiptId
    url: str
    price: PriceBody
    attribution: Literal["pending", "complete"]  # complete: a repeated call's may be
    settled: int | None  # the epoch that drew the price
    warnings: tuple[str, ...] | UnsetType = UNSET


class MessageAnswer(msgspec.Struct, frozen=True):
    """The whole answer of a chat."""

    content: str
    role: str = "assistant"


class Delta(msgspec.Struct, frozen=True):
    """A piece of it."""

    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET


class Choice(msgspec.Struct, frozen=True):
    """The one choice; which of the three texts is set depends on the route."""

    finish_reason: str | None
    index: int = 0
    logprobs: None = None
    message: MessageAnswer | UnsetType = UNSET
    delta: Delta | UnsetType = UNSET
    text: str | UnsetType = UNSET


class Answer(msgspec.Struct, frozen=True):
    """A completion or a chunk of one."""

    id: str
    object: str
    created: int  # unix seconds
    model: str
    system_fingerprint: str
    choices: tuple[Choice, ...]
    usage: UsageBody | UnsetType | None = UNSET
    openledger: Details | UnsetType = UNSET


class Head(msgspec.Struct, frozen=True):
    """What every chunk of one answer has in common."""

    receipt_id: ReceiptId
    created: int
    model: str
    fingerprint: str


class Style(msgspec.Struct, frozen=True):
    """How one of the two completion routes says the same things."""

    id_prefix: str
    whole_object: str
    chunk_object: str
    whole: Callable[[str, str | None], Choice]  # text, finish reason
    piece: Callable[[str, str | None], Choice]
    opening: Choice | None  # what a stream starts with


def _chat_piece(text: str, finish_reason: str | None) -> Choice:
    return Choice(finish_reason, delta=Delta(content=text) if text else Delta())


CHAT = Style(
    id_prefix="chatcmpl-",
    whole_object="chat.completion",
    chunk_object="chat.completion.chunk",
    whole=lambda text, finish_reason: Choice(finish_reason, message=MessageAnswer(text)),
    piece=_chat_piece,
    opening=Choice(None, delta=Delta(role="assistant", content="")),
)
COMPLETION = Style(
    id_prefix="cmpl-",
    whole_object="text_completion",
    chunk_object="text_completion",
    whole=lambda text, finish_reason: Choice(finish_reason, text=text),
    piece=lambda text, finish_reason: Choice(finish_reason, text=text),
    opening=None,
)


def usage_of(result: InferenceResult, receipt: ReceiptId) -> UsageBody:
    """Tokens, cost, and what the split policy sets aside of it for which role.

    `data` is the pool of contributors and commons together: who gets what of it is known with the
    attribution. What is set aside for a role that nobody fills goes to commons too.
    """
    details = {"currency": CURRENCY, "receipt": str(receipt)}
    for part in result.parts:
        details[part.role] = to_open(part.amount)
    return UsageBody(
        prompt_tokens=result.prompt_tokens,
        completion_tokens=result.completion_tokens,
        total_tokens=result.prompt_tokens + result.completion_tokens,
        prompt_tokens_details=PromptDetails(result.cached_tokens),
        cost=float(to_open(result.fee)),
        cost_details=details,
    )
