"""What a vLLM server is asked and what it may answer, by its `/v1/completions`.

Token ids go in and come out (`return_token_ids`), with the log-probability of each token that was
chosen (`logprobs`, which are those of temperature 1 before penalties unless the server was started
with another `--logprobs-mode`). Nothing that comes back is believed before it was checked.

Source: vLLM 0.32, vllm/entrypoints/openai/completion/protocol.py.
"""

import math
from hashlib import sha256
from typing import Annotated, Any

import msgspec

from openledger.core.encoding import check_depth
from openledger.core.errors import EngineFaultError, InvalidInputError
from openledger.serving.request import Finish, GenerationRequest, Token

DONE = b"[DONE]"

_ROUNDING = 1e-3  # how far above 0 a log-probability may come out of its rounding
_SEED_BYTES = 8  # of the 32; vLLM takes a signed integer of 64 bits
_TOLD = 200  # letters of what the server says that are passed on
_GREEDY_BELOW = 1e-5  # as the embedded engine has it

_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Logprobs(msgspec.Struct):
    token_logprobs: list[float]


class _Choice(msgspec.Struct):
    index: int
    token_ids: list[int]
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None
    prompt_token_ids: list[int] | None = None  # in the first piece


class _Details(msgspec.Struct):
    cached_tokens: _Count | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: _Count
    prompt_tokens_details: _Details | None = None


class _Error(msgspec.Struct):
    message: str


class _Piece(msgspec.Struct):
    model: str | None = None
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: _Error | None = None


class _Refusal(msgspec.Struct):
    error: _Error


def completion(
    request: GenerationRequest, model: str, max_tokens: int, cache_salt: str
) -> dict[str, Any]:
    """The body that asks for an answer.

    Every field that changes what is drawn is named, so that no default of the server counts. The
    end token is one of `stop_ids` or none: the server's own is ignored.
    """
    how = request.sampling
    return {
        "model": model,
        "prompt": list(request.prompt_ids),
        "max_tokens": max_tokens,
        "stop_token_ids": sorted(request.stop_ids),
        "ignore_eos": True,
        "n": 1,
        "seed": int.from_bytes(how.seed[:_SEED_BYTES], "big", signed=True),
        "temperature": 0.0 if how.temperature < _GREEDY_BELOW else how.temperature,
        "top_p": how.top_p,
        "top_k": -1 if how.top_k is None else how.top_k,
        "min_p": 0.0,
        "repetition_penalty": how.repetition_penalty,
        "presence_penalty": how.presence_penalty,
        "frequency_penalty": how.frequency_penalty,
        "logprobs": 0,  # that of the chosen token, no others
        "return_token_ids": True,
        "cache_salt": cache_salt,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def salt(secret: bytes, tenant: str) -> str:
    """Keeps what one tenant's prompts left in the prefix cache from all others."""
    return sha256(secret + tenant.encode()).hexdigest()


def told(body: bytes) -> str:
    """What the server says went wrong, shortened, on one line."""
    try:
        check_depth(body)
        message = msgspec.json.decode(body, type=_Refusal).error.message
    except (InvalidInputError, msgspec.MsgspecError, UnicodeDecodeError):
        message = body[:_TOLD].decode(errors="replace")
    plain = "".join(letter if letter.isprintable() else " " for letter in message[:_TOLD])
    return plain or "nothing"


class AnswerReader:
    """Checks one streamed answer, event by event, against what was asked."""

    def __init__(
        self, request: GenerationRequest, model: str, max_tokens: int, vocabulary: int
    ) -> None:
        self._request = request
        self._model = model
        self._max_tokens = max_tokens
        self._vocabulary = vocabulary
        self._made = 0
        self.finish: Finish | None = None  # None: goes on
        self.cached_tokens = 0

    def read(self, event: bytes) -> list[Token]:
        """The tokens of one event, the stopping one left out.

        Raises:
            EngineFaultError: it is not what a server that does as it was asked would send.
        """
        try:
            check_depth(event)
            piece = msgspec.json.decode(event, type=_Piece)
        except (InvalidInputError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise _wrong(f"an event that cannot be read: {error}") from error
        if piece.error is not None:
            raise _wrong(f"an error: {told(event)}")
        if piece.model != self._model:
            raise _wrong("an answer of another model")
        if piece.usage is not None:
            self._read_usage(piece.usage)
        if len(piece.choices) > 1:
            raise _wrong("several answers at once")
        return self._read_choice(piece.choices[0]) if piece.choices else []

    def _read_usage(self, usage: _Usage) -> None:
        asked = len(self._request.prompt_ids)
        details = usage.prompt_tokens_details
        cached = (details.cached_tokens or 0) if details is not None else 0
        if usage.prompt_tokens != asked or cached > asked:
            raise _wrong(f"a usage of {usage.prompt_tokens} prompt tokens for {asked}")
        self.cached_tokens = cached

    def _read_choice(self, choice: _Choice) -> list[Token]:
        if self.finish is not None:
            raise _wrong("tokens after the end")
        asked = list(self._request.prompt_ids)
        if choice.index != 0 or choice.prompt_token_ids not in (None, asked):
            raise _wrong("an answer to another prompt")
        tokens = self._tokens(choice)
        self._made += len(tokens)
        if self._made > self._max_tokens:
            raise _wrong(f"more than the {self._max_tokens} tokens it was asked for")
        if choice.finish_reason is not None:
            self.finish = self._ending(choice.finish_reason, tokens)
        elif any(token.id in self._request.stop_ids for token in tokens):
            raise _wrong("tokens beyond the one that stops")
        return tokens[:-1] if self.finish is Finish.STOP else tokens

    def _tokens(self, choice: _Choice) -> list[Token]:
        logprobs = [] if choice.logprobs is None else choice.logprobs.token_logprobs
        if len(logprobs) != len(choice.token_ids):
            raise _wrong(f"{len(choice.token_ids)} tokens and {len(logprobs)} log-probabilities")
        if not all(0 <= token < self._vocabulary for token in choice.token_ids):
            raise _wrong(f"a token outside the vocabulary of {self._vocabulary}")
        if not all(math.isfinite(one) and one <= _ROUNDING for one in logprobs):
            raise _wrong("a log-probability that is none")
        pairs = zip(choice.token_ids, logprobs, strict=True)
        return [Token(token, min(0.0, logprob)) for token, logprob in pairs]

    def _ending(self, reason: str, tokens: list[Token]) -> Finish:
        stops = [token.id in self._request.stop_ids for token in tokens]
        if reason == Finish.STOP and sum(stops) == 1 and stops[-1]:
            return Finish.STOP
        if reason == Finish.LENGTH and not any(stops) and self._made == self._max_tokens:
            return Finish.LENGTH
        raise _wrong(f"an end by {reason[:_TOLD]!r} after {self._made} tokens")


def _wrong(what: str) -> EngineFaultError:
    return EngineFaultError(f"the vLLM server sent {what}; the call costs nothing, try again")
