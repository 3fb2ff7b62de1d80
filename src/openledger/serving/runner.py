"""The embedded engine's arithmetic: one resident model, and adapters for every row of a batch."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor

from openledger.core.errors import DigestMismatchError, InvalidInputError, StorageFullError
from openledger.core.types import Digest
from openledger.lm.base import BaseModel
from openledger.lm.checkpoint import MAX_RANK, load_adapter
from openledger.lm.families.architecture import empty_model
from openledger.serving.batch import Capture, Captured, Output
from openledger.serving.engine import AdapterRef
from openledger.serving.llama.cache import BLOCK, PagedCache, block_bytes
from openledger.serving.llama.forward import Forward
from openledger.serving.llama.kernels.in_c import CKernels
from openledger.serving.llama.kernels.in_torch import TorchKernels
from openledger.serving.llama.kernels.protocol import Kernels
from openledger.serving.llama.packed import (
    PackedAdapter,
    Rooms,
    aligned,
    pack,
    read_packed,
    unpack,
    write_packed,
)
from openledger.serving.llama.rotary import rotary_of
from openledger.serving.llama.shape import shape_of
from openledger.serving.llama.step import PackedChunk, Step, step_of
from openledger.serving.llama.weights import weights_of
from openledger.serving.native.library import InstructionSet, native

log = structlog.get_logger()


class Arithmetic(msgspec.Struct, frozen=True):
    """How a runner computes; the defaults are the fastest this machine has."""

    is_int8: bool = False  # weights in 8 bits: faster than float32, and than bfloat16 for a few
    is_native: bool = True  # kernels in C if they can be compiled, else in torch
    instruction_set: InstructionSet | None = None  # None: the widest of this CPU


class LlamaRunner:
    """Runs batches on one base model, in the precision it was loaded in."""

    def __init__(
        self,
        base: BaseModel,
        packed: Path | None = None,
        arithmetic: Arithmetic = Arithmetic(),  # noqa: B008 - frozen
    ) -> None:
        """`packed` is where adapters are kept as they are read; None: in memory only.

        Raises:
            InvalidInputError: the base's configuration is not supported.
        """
        self._shape = shape_of(base.model.config)
        self._native = native(arithmetic.instruction_set) if arithmetic.is_native else None
        self._weights = weights_of(base.model, is_int8=arithmetic.is_int8, native=self._native)
        self._rotary = rotary_of(base.model, self._shape)
        self._dtype = base.model.dtype
        self._arithmetic = arithmetic
        self._packed = packed
        self._rooms = Rooms()
        # Reading adapters asks the model for its sizes only: let its own weights go.
        self._base = msgspec.structs.replace(base, model=empty_model(base.model.config))
        self._forward: Forward | None = None
        self._blocks = 0

    @property
    def base(self) -> Digest:
        return self._base.digest

    @property
    def context(self) -> int:
        return self._shape.context

    @property
    def vocabulary(self) -> int:
        return self._shape.vocabulary

    @property
    def hidden(self) -> int:
        return self._shape.hidden

    @property
    def dtype(self) -> str:
        return "int8" if self._arithmetic.is_int8 else str(self._dtype).removeprefix("torch.")

    @property
    def max_rank(self) -> int | None:
        return MAX_RANK

    @property
    def block_tokens(self) -> int:
        return BLOCK

    @property
    def block_bytes(self) -> int:
        return block_bytes(self._shape, self._dtype)

    def prepare(self, threads: int, blocks: int) -> None:
        torch.set_num_threads(threads)
        cache = PagedCache(self._shape, blocks, self._dtype)
        self._blocks = blocks
        self._forward = Forward(self._weights, self._kernels(cache, threads))

    def read(self, ref: AdapterRef) -> PackedAdapter:
        """See `Runner.read`; a file packed before stands for the content of the folder."""
        path = None if self._packed is None else self._packed / ref.digest
        content = None
        if path is not None and ref.path.is_dir():
            content = read_packed(path, self._rooms)
        if content is not None:
            try:
                return unpack(content, ref.digest, self.base, self._shape)
            except DigestMismatchError as error:
                log.warning("packed again", adapter=ref.digest, why=str(error))
        made = pack(load_adapter(ref.path, self._base, ref.digest), ref.digest, self._shape)
        if path is not None:
            _keep(path, made)
        return unpack(aligned(made, self._rooms), ref.digest, self.base, self._shape)

    def run(self, chunks: Sequence[PackedChunk]) -> Output:
        if self._forward is None:
            raise InvalidInputError("the runner has no cache yet; call prepare first")
        step = step_of(chunks, self._blocks, self.context)
        states = self._forward.run(step)  # (T, D)
        logits: NDArray[np.float32] = self._forward.logits(states, step.wanted).float().numpy()
        return Output(logits, _captured(chunks, step, states))

    def _kernels(self, cache: PagedCache, threads: int) -> Kernels:
        if self._native is None:
            return TorchKernels(self._shape, self._rotary, cache)
        return CKernels(self._native, threads, self._shape, self._rotary, cache)


def _captured(chunks: Sequence[PackedChunk], step: Step, states: Tensor) -> dict[int, Captured]:
    """What the chunks keep of the (T, D) states."""
    found: dict[int, Captured] = {}
    ends: dict[int, int] = {}  # last rows, by the place of their chunk
    for place, (chunk, span) in enumerate(zip(chunks, step.spans, strict=True)):
        end = span.first_row + span.rows
        if chunk.capture is Capture.SUM:
            found[place] = states[span.first_row : end].double().sum(0).numpy()
        elif chunk.capture is Capture.LAST:
            ends[place] = end - 1
    if ends:
        kept = states[[*ends.values()]].bfloat16().view(torch.int16).numpy()
        found |= zip(ends, kept.view(np.uint16), strict=True)
    return found


def _keep(path: Path, content: bytes) -> None:
    """For the next time, where there is room."""
    try:
        write_packed(path, content)
    except (StorageFullError, OSError) as error:
        log.warning("packed adapter not kept", adapter=path.name, why=str(error))
