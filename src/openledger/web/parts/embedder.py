"""Vectors of texts by the base model: free of charge, so many tokens a minute for each payer."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from threading import Lock
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from openledger.core.errors import (
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)
from openledger.core.types import Account
from openledger.lm.tokenizer import Tokenizer
from openledger.serving.engine import Embedder, PendingVector
from openledger.serving.request import EmbeddingRequest
from openledger.web.embeddings import EmbeddingCall, Vectors
from openledger.web.errors import RateLimitedError
from openledger.web.wire.embeddings import Input

_TOGETHER = 8  # texts of one call that the engine is given at a time
_DEADLINE_S = 600.0
_MINUTE_S = 60.0
_ROUNDING_S = 1e-6  # of sums of floats
_REMEMBERED = 10_000  # payers, before those who owe nothing are forgotten


class Allowance:
    """Tokens that each payer may have read: so many a minute, as many at once."""

    def __init__(self, per_minute: int, now_s: Callable[[], float] = time.monotonic) -> None:
        self._most = per_minute
        self._now_s = now_s
        self._full_at: dict[Account, float] = {}  # when nothing is owed any more
        self._lock = Lock()

    def take(self, payer: Account, tokens: int) -> None:
        """Count tokens that are about to be read.

        Raises:
            InvalidInputError: more than a minute's.
            RateLimitedError: more than are left; `details["retry_after_s"]` says when they are.
        """
        if tokens > self._most:
            raise InvalidInputError(
                f"the texts have {tokens} tokens and one call may have {self._most}; send fewer",
                param="input",
            )
        with self._lock:
            now_s = self._now_s()
            full_at = max(self._full_at.get(payer, now_s), now_s) + self._seconds(tokens)
            early_s = full_at - now_s - _MINUTE_S
            if early_s > _ROUNDING_S:
                retry_s = int(early_s) + 1
                raise RateLimitedError(
                    f"each payer has {self._most} tokens of embeddings a minute; try again in "
                    f"{retry_s} seconds",
                    retry_after_s=str(retry_s),
                )
            self._full_at[payer] = full_at
            self._forget(now_s)

    def give_back(self, payer: Account, tokens: int) -> None:
        """They were not read after all."""
        with self._lock:
            self._full_at[payer] = self._full_at.get(payer, 0.0) - self._seconds(tokens)

    def _seconds(self, tokens: int) -> float:
        return tokens * _MINUTE_S / self._most

    def _forget(self, now_s: float) -> None:
        if len(self._full_at) > _REMEMBERED:
            self._full_at = {who: at for who, at in self._full_at.items() if at > now_s}


class BaseEmbeddings:
    """See `embeddings.Embeddings`; the one model is the base."""

    def __init__(
        self, engine: Embedder, tokenizer: Tokenizer, model: str, allowance: Allowance
    ) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._model = model
        self._allowance = allowance

    def start(self, call: EmbeddingCall) -> "Batch":
        if call.model.strip() != self._model:
            raise NotFoundError(
                f"there is no embedding model {call.model!r}; the one here is {self._model!r}",
                param="model",
            )
        width = self._engine.caps.hidden
        if call.dimensions is not None and width is not None and call.dimensions > width:
            raise InvalidInputError(
                f"dimensions is at most {width}, not {call.dimensions}", param="dimensions"
            )
        texts = [self._encoded(place, one) for place, one in enumerate(call.inputs)]
        tokens = sum(map(len, texts))
        payer = call.payer.account
        self._allowance.take(payer, tokens)
        try:
            return Batch(self._engine, payer, texts, call.dimensions)
        except Exception:
            self._allowance.give_back(payer, tokens)
            raise

    def _encoded(self, place: int, given: Input) -> tuple[int, ...]:
        token_ids = tuple(self._tokenizer.encode(given)) if isinstance(given, str) else given
        context, size = self._engine.caps.context, self._engine.caps.vocabulary
        if len(token_ids) > context:
            raise InvalidInputError(
                f"input {place} has {len(token_ids)} tokens and the context holds {context}; "
                "shorten or divide it",
                param="input",
            )
        if not 0 <= min(token_ids) <= max(token_ids) < size:
            raise InvalidInputError(
                f"input {place} has a token outside the vocabulary of {size}; another model's "
                "tokenizer made it: send text",
                param="input",
            )
        return token_ids


class Batch:
    """The texts of one call, some at a time in the engine; see `embeddings.PendingVectors`."""

    def __init__(
        self,
        engine: Embedder,
        payer: Account,
        texts: Sequence[tuple[int, ...]],
        dimensions: int | None,
    ) -> None:
        """Queue the first ones.

        Raises:
            EngineFullError, UnavailableError: the engine takes none.
        """
        self._engine = engine
        self._dimensions = dimensions
        name = uuid4().hex
        self._waiting = deque(
            EmbeddingRequest(f"emb-{name}-{place}", payer, token_ids, _DEADLINE_S)
            for place, token_ids in enumerate(texts)
        )
        self._tokens = sum(map(len, texts))
        self._pending: deque[PendingVector] = deque()
        self._is_cancelled = False
        self._lock = Lock()
        self._queue_more()

    def result(self) -> Vectors:
        vectors: list[NDArray[np.float32]] = []
        while self._pending:
            vectors.append(self._cut(_read(self._pending[0])))
            self._queue_more(has_read=True)
        return Vectors(tuple(vectors), self._tokens)

    def cancel(self) -> None:
        with self._lock:
            self._is_cancelled = True
            for one in self._pending:
                one.cancel()

    def _queue_more(self, *, has_read: bool = False) -> None:
        with self._lock:
            if has_read:
                self._pending.popleft()
            while self._waiting and len(self._pending) < _TOGETHER and not self._is_cancelled:
                try:
                    self._pending.append(self._engine.embed(self._waiting[0]))
                except UnavailableError:
                    if not self._pending:
                        raise
                    break  # there is a place when the next one of these is done
                self._waiting.popleft()

    def _cut(self, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._dimensions is None:
            return vector
        kept = vector[: self._dimensions]
        return kept / max(np.linalg.norm(kept), np.finfo(np.float32).tiny)


def _read(pending: PendingVector) -> NDArray[np.float32]:
    vector = next(pending, None)
    if vector is None:
        raise UnavailableError(
            f"a text was not read ({pending.usage().finish.value}); try again with fewer"
        )
    return vector
