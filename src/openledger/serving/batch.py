"""What the scheduler and the arithmetic say to each other: one step is one batch of chunks."""

from collections.abc import Sequence
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


class Chunk(msgspec.Struct, Generic[Loaded], frozen=True):
    """What one sequence feeds in a step: a piece of its prompt, or its last token."""

    blocks: tuple[int, ...]  # all KV blocks of the sequence so far, those of this chunk included
    start: int  # tokens already in the cache; the chunk's first token has this position
    token_ids: tuple[int, ...]  # at least one
    mix: tuple[Weighted[Loaded], ...]  # empty: the base alone
    is_last: bool  # whether logits after the last token are wanted


class Runner(Protocol[Loaded]):
    """The resident base model and its arithmetic.

    Only the engine's thread calls `prepare` and `run`.
    """

    @property
    def base(self) -> Digest: ...

    @property
    def context(self) -> int: ...

    @property
    def vocabulary(self) -> int: ...

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

    def run(self, chunks: Sequence[Chunk[Loaded]]) -> NDArray[np.float32]:
        """Feed a batch; all its keys and values are in the cache afterwards.

        Returns:
            (wanted, V) logits of the chunks whose `is_last` is set, in their order.
        """
        ...
