"""What the scheduler and the arithmetic say to each other: one step is one batch of chunks."""

from collections.abc import Sequence
from enum import Enum
from typing import Generic, Protocol, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from openledger.core.types import Digest
from openledger.serving.adapters import Adapter
from openledger.serving.engine import AdapterRef

Loaded = TypeVar("Loaded", bound=Adapter)


class Weighted(msgspec.Struct, Generic[Loaded], frozen=True):
    """A resident adapter and how much of it to add."""

    adapter: Loaded
    weight: float


class Capture(Enum):
    """What is kept of a chunk's final hidden states: those that the head makes logits of."""

    NONE = "none"
    LAST = "last"  # (D,) uint16, the bits of a bfloat16: the state of the last token
    SUM = "sum"  # (D,) float64: the states of all tokens, added up


class Chunk(msgspec.Struct, Generic[Loaded], frozen=True):
    """What one sequence feeds in a step: a piece of its prompt, or its last token."""

    blocks: tuple[int, ...]  # all KV blocks of the sequence so far, those of this chunk included
    start: int  # tokens already in the cache; the chunk's first token has this position
    token_ids: tuple[int, ...]  # at least one
    mix: tuple[Weighted[Loaded], ...]  # empty: the base alone
    is_last: bool  # whether logits after the last token are wanted
    capture: Capture = Capture.NONE


Captured = NDArray[np.uint16] | NDArray[np.float64]  # (D,) see `Capture`


class Output(msgspec.Struct, frozen=True):
    """What came of a step."""

    logits: NDArray[np.float32]  # (wanted, V) of the chunks whose `is_last` is set, in their order
    captured: dict[int, Captured]  # by the place of the chunk in the batch


class Runner(Protocol[Loaded]):
    """The resident base model and its arithmetic.

    Only the engine's thread calls `prepare` and `run`. A step that raised may be run again, chunk
    by chunk: it writes the same positions.
    """

    @property
    def base(self) -> Digest: ...

    @property
    def context(self) -> int: ...

    @property
    def vocabulary(self) -> int: ...

    @property
    def hidden(self) -> int:
        """D of the final hidden states."""
        ...

    @property
    def dtype(self) -> str: ...

    @property
    def max_rank(self) -> int | None: ...

    @property
    def block_tokens(self) -> int:
        """Positions in one KV block."""
        ...

    @property
    def block_bytes(self) -> int:
        """Memory of one KV block over all layers."""
        ...

    def prepare(self, threads: int, blocks: int) -> None:
        """Allocate a KV cache of so many blocks and set the number of threads."""
        ...

    def read(self, ref: AdapterRef) -> Loaded:
        """Load and check one adapter; called from any thread. Errors: see `Engine.load`."""
        ...

    def run(self, chunks: Sequence[Chunk[Loaded]]) -> Output:
        """Feed a batch; all its keys and values are in the cache afterwards."""
        ...
