"""What goes into an engine and what comes out: plain records of token ids and digests.

Text, names, keys and money live above the engine; it never learns them.
"""

import math
from enum import StrEnum

import msgspec

from openledger.core.errors import InvalidInputError
from openledger.core.types import Digest

SEED_BYTES = 32


class MixMember(msgspec.Struct, frozen=True):
    """One adapter of a mix: the base's weights move by `weight` times the adapter's delta."""

    adapter: Digest
    weight: float


class Sampling(msgspec.Struct, frozen=True):
    """How the next token is drawn; temperature 0 takes the likeliest one.

    Raises:
        InvalidInputError: a value is outside its range.
    """

    seed: bytes  # 32 bytes: the same seed, prompt and mix give the same answer
    temperature: float = 1.0  # 0 to 2
    top_p: float = 1.0  # above 0, at most 1
    top_k: int | None = None  # 1 or more
    repetition_penalty: float = 1.0  # above 0; divides logits of tokens seen in prompt or answer
    presence_penalty: float = 0.0  # -2 to 2; taken off tokens seen in the answer
    frequency_penalty: float = 0.0  # -2 to 2; taken off once per occurrence in the answer

    def __post_init__(self) -> None:
        if len(self.seed) != SEED_BYTES:
            raise InvalidInputError(f"a sampling seed has {SEED_BYTES} bytes, not {len(self.seed)}")
        _check_range("temperature", self.temperature, 0, 2)
        _check_range("presence_penalty", self.presence_penalty, -2, 2)
        _check_range("frequency_penalty", self.frequency_penalty, -2, 2)
        if not 0 < self.top_p <= 1:
            raise InvalidInputError(f"top_p is above 0 and at most 1, not {self.top_p}")
        if self.top_k is not None and self.top_k < 1:
            raise InvalidInputError(f"top_k is 1 or more, not {self.top_k}")
        if not 0 < self.repetition_penalty < math.inf:
            raise InvalidInputError(f"repetition_penalty is above 0, not {self.repetition_penalty}")


class GenerationRequest(msgspec.Struct, frozen=True):
    """One answer to make."""

    id: str  # unique among the requests in flight
    tenant: str  # who pays; waiting requests of different tenants take turns
    prompt_ids: tuple[int, ...]
    mix: tuple[MixMember, ...]  # empty: the base model alone
    sampling: Sampling
    max_tokens: int
    stop_ids: frozenset[int]  # end the answer; they are not part of it
    deadline_s: float  # from submission, queueing included
    keeps_hidden: bool = False  # each token comes with the final hidden state behind it


class EmbeddingRequest(msgspec.Struct, frozen=True):
    """One text to make a vector of; no token is drawn."""

    id: str  # unique among the requests in flight
    tenant: str  # takes turns with all others, whatever they ask for
    prompt_ids: tuple[int, ...]
    deadline_s: float  # from submission, queueing included
    mix: tuple[MixMember, ...] = ()  # empty: the base model alone


class Token(msgspec.Struct, frozen=True):
    """One token of an answer."""

    id: int
    logprob: float  # natural logarithm, at temperature 1, before penalties and filters
    hidden: bytes | None = None  # D bfloat16, lowest byte first: what the head made it of; if asked


class Finish(StrEnum):
    """Why an answer ended."""

    STOP = "stop"  # the model ended it
    LENGTH = "length"  # max_tokens, or the context is full
    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    SLOW_READER = "slow_reader"  # the reader let the buffer stand full too long
    FAULT = "fault"  # this sequence broke; reading its stream raises
    SHUTDOWN = "shutdown"  # the engine stopped; reading its stream raises


class Usage(msgspec.Struct, frozen=True):
    """What one request took."""

    prompt_tokens: int
    completion_tokens: int  # made, whether or not they were read
    steps: int
    queue_s: float
    load_s: float  # reading adapters that were not resident
    prefill_s: float
    decode_s: float
    finish: Finish
    cached_tokens: int = 0  # of the prompt, that need not be read again


def check_request(
    request: GenerationRequest, context: int, vocabulary: int, *, keeps_hidden: bool = False
) -> None:
    """Refuse what no engine with this context (tokens) and vocabulary could answer.

    `keeps_hidden` is whether the engine can.

    Raises:
        InvalidInputError: empty or over-long prompt, unknown token id, `max_tokens` or deadline
            not above zero, an adapter twice in the mix; hidden states are asked for in vain.
    """
    length = len(request.prompt_ids)
    if length >= context:
        raise InvalidInputError(
            f"the prompt has {length} tokens and the context holds {context}, answer included; "
            "shorten the prompt"
        )
    _check_common(request, vocabulary)
    if request.max_tokens <= 0:
        raise InvalidInputError(f"max_tokens is 1 or more, not {request.max_tokens}")
    if request.keeps_hidden and not keeps_hidden:
        raise InvalidInputError("this engine keeps no hidden states; ask without keeps_hidden")


def check_embedding(request: EmbeddingRequest, context: int, vocabulary: int) -> None:
    """Refuse what no engine with this context (tokens) and vocabulary could read.

    Raises:
        InvalidInputError: empty or over-long text, unknown token id, deadline not above zero, an
            adapter twice in the mix.
    """
    length = len(request.prompt_ids)
    if length > context:
        raise InvalidInputError(
            f"the text has {length} tokens and the context holds {context}; shorten or divide it"
        )
    _check_common(request, vocabulary)


def _check_common(request: GenerationRequest | EmbeddingRequest, vocabulary: int) -> None:
    if not request.prompt_ids:
        raise InvalidInputError("the prompt is empty; give at least one token")
    if not 0 <= min(request.prompt_ids) <= max(request.prompt_ids) < vocabulary:
        raise InvalidInputError(f"a prompt token is outside the vocabulary of {vocabulary}")
    if not 0 < request.deadline_s < math.inf:
        raise InvalidInputError(f"deadline_s is above 0, not {request.deadline_s}")
    if len({member.adapter for member in request.mix}) != len(request.mix):
        raise InvalidInputError("the mix names an adapter twice; add up its weights")
    if not all(math.isfinite(member.weight) for member in request.mix):
        raise InvalidInputError("the weights of a mix are finite numbers")


def check_mix(request: GenerationRequest | EmbeddingRequest, max_mix: int) -> None:
    """Refuse a mix of more adapters than an engine sums.

    Raises:
        InvalidInputError: it is one.
    """
    if len(request.mix) > max_mix:
        raise InvalidInputError(f"a mix holds at most {max_mix} adapters, not {len(request.mix)}")


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InvalidInputError(f"{name} is between {low} and {high}, not {value}")
