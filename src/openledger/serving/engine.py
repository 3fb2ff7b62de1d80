"""The door of every engine: embedded, remote or fake, they all keep this contract.

`tests/serving/conformance.py` says the contract as tests that run on each of them. An engine is
synchronous and safe to call from any thread; `web` adapts it to async.
"""

from enum import StrEnum
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from openledger.core.types import Digest
from openledger.serving.request import EmbeddingRequest, GenerationRequest, Token, Usage


class Combine(StrEnum):
    """How an engine serves a mix of several adapters."""

    ROW = "row"  # exact weighted sum, for each request its own
    CAT = "cat"  # one combined adapter is made first
    NONE = "none"  # one adapter at most


class Draws(StrEnum):
    """Where the random numbers of an answer come from."""

    SEED = "seed"  # from the request's seed alone, by `sampling`: anyone can draw them again
    OWN = "own"  # from the engine's own generator, which the seed starts


class Config(msgspec.Struct, frozen=True):
    """How an engine runs; threads, prefill, steps and KV cache are the embedded one's alone."""

    threads: int = 2  # of arithmetic; decode hardly gains beyond the physical cores
    context: int = 2_048  # tokens of one request; the model's own limit if that is smaller
    max_active: int = 32  # answers made at the same time
    max_waiting: int = 64
    max_mix: int = 8
    buffer_tokens: int = 256  # made ahead of a slow reader
    slow_reader_s: float = 30.0  # how long a full buffer may stand
    prefill_chunk: int = 128  # tokens of one prompt in a step, so that a long one lets others by
    step_tokens: int = 256  # of all prompts and answers in a step, so that no answer stands long
    kv_bytes: int = 1 << 30  # of the KV cache
    adapter_bytes: int = 1 << 30  # of all resident adapters
    skip_limit_s: float = 5.0  # how long others may pass one that lacks blocks or adapters
    unload_timeout_s: float = 60.0


class Caps(msgspec.Struct, frozen=True):
    """What an engine can do."""

    base: Digest  # of the resident base model
    context: int  # tokens of prompt and answer together
    vocabulary: int
    dtype: str
    max_mix: int  # adapters in one request
    max_rank: int | None  # of one adapter; None: no limit
    combine: Combine
    draws: Draws
    build: str  # engine and version
    hidden: int | None = None  # D of its final hidden states; None: it shows none

    @property
    def determinism(self) -> str:
        """Build and class of determinism, as receipts name them."""
        name = f"{self.build}/{self.dtype}"
        return name if self.draws is Draws.SEED else f"{name}/{self.draws}-draws"


class AdapterRef(msgspec.Struct, frozen=True):
    """An adapter by content: the folder must hold exactly what the digest names."""

    digest: Digest
    path: Path  # a PEFT folder


class Tier(StrEnum):
    """Where an adapter that the engine knows is now."""

    RAM = "ram"
    DISK = "disk"  # evicted; the next request that needs it reads it again


class Residency(msgspec.Struct, frozen=True):
    """How one adapter stands in the store."""

    digest: Digest
    tier: Tier
    rank: int | None  # None: not resident
    size_bytes: int  # in memory; 0: not resident
    references: int  # requests that use it now
    is_pinned: bool


class Stats(msgspec.Struct, frozen=True):
    """Counters since the start, and what goes on now."""

    waiting: int
    active: int
    paused: int  # active, but their reader is slow
    finished: dict[str, int]  # by `Finish`
    rejected: int  # refused because the engine was full
    prompt_tokens: int
    cached_tokens: int  # of the prompts, found in the KV cache
    completion_tokens: int
    steps: int  # of all finished requests, each counting its own
    batches: dict[int, int]  # steps of the engine by rows, rounded up to a power of two
    broken_batches: int  # steps that raised and were run again row by row
    prefill_s: float
    decode_s: float
    kv_blocks: int
    kv_blocks_used: int  # by answers at work
    kv_blocks_idle: int  # kept as prefixes only
    adapter_loads: int
    adapter_hits: int
    adapter_evictions: int
    adapter_load_s: float
    resident_adapters: int
    resident_bytes: int


class Stream(Protocol):
    """The answer as it comes, for one reader; iterate it to its end."""

    @property
    def request_id(self) -> str: ...

    def __iter__(self) -> "Stream": ...

    def __next__(self) -> Token:
        """Wait for the next token.

        Raises:
            EngineFaultError: this sequence broke, or the engine fell silent.
            UnavailableError: the engine was shut down before the answer ended; or the mix does
                not fit beside what is pinned.
            NotFoundError, DigestMismatchError: an evicted adapter has gone or changed on disk.
        """
        ...

    def cancel(self) -> None:
        """Stop within one step and drop what was not read; twice does no harm."""
        ...

    def usage(self) -> Usage:
        """What it took; waits for the end of the answer.

        Raises:
            EngineFaultError: the engine fell silent.
        """
        ...


class PendingVector(Protocol):
    """The vector of one text, for one reader."""

    def __next__(self) -> NDArray[np.float32]:
        """Wait for the (D,) vector of length 1.

        Raises:
            StopIteration: it was read before; or it ended without, and `usage` says why.
            EngineFaultError, UnavailableError, NotFoundError, DigestMismatchError: see `Stream`.
        """
        ...

    def cancel(self) -> None:
        """See `Stream`."""
        ...

    def usage(self) -> Usage:
        """See `Stream`."""
        ...


class Embedder(Protocol):
    """An engine that also makes vectors of texts."""

    @property
    def caps(self) -> Caps: ...

    def embed(self, request: EmbeddingRequest) -> PendingVector:
        """Queue a text: the mean of its final hidden states, divided by its length.

        Raises:
            InvalidInputError: see `check_embedding`; or more adapters than `caps.max_mix`.
            NotFoundError, ConflictError, EngineFullError, UnavailableError: see `Engine.submit`.
        """
        ...


class Engine(Protocol):
    """Makes answers under any mix of the adapters it was given."""

    @property
    def caps(self) -> Caps: ...

    @property
    def is_alive(self) -> bool:
        """Whether it still makes answers: not closed, and not broken down."""
        ...

    def load(self, ref: AdapterRef, *, pin: bool = False) -> Residency:
        """Make an adapter known and resident; a pinned one is never evicted.

        Raises:
            NotFoundError: there is no such folder.
            DigestMismatchError: the folder holds something else.
            ConflictError: it was trained on another base model.
            InvalidInputError: it is no sound adapter, or larger than the engine's budget.
            UnavailableError: everything resident is in use; no room now.
        """
        ...

    def unload(self, adapter: Digest) -> None:
        """Forget an adapter at once for new requests; return when the last user is gone.

        Raises:
            NotFoundError: it is not known.
            UnavailableError: its users took longer than the configured time.
        """
        ...

    def residency(self) -> tuple[Residency, ...]: ...

    def submit(self, request: GenerationRequest) -> Stream:
        """Queue a request.

        Raises:
            InvalidInputError: see `check_request`; or more adapters than `caps.max_mix`, or of
                more ranks in all than an engine of `Combine.CAT` takes.
            NotFoundError: the mix names an unknown adapter.
            ConflictError: a request of that id is in flight.
            EngineFullError: the queue is full, or too full for one more of this tenant; it says
                in `details["retry_after_s"]` when to try again.
            UnavailableError: the engine stops.
        """
        ...

    def cancel(self, request_id: str) -> None:
        """Stop a request within one step; one that is not in flight is no error."""
        ...

    def stats(self) -> Stats: ...

    def close(self, drain_s: float = 0.0) -> None:
        """Refuse new requests, give those in flight `drain_s` seconds, then stop."""
        ...
