"""The compiled library behind ctypes; the records are those of `kernel.h`."""

import ctypes
from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p
from enum import IntEnum
from functools import cache
from typing import ClassVar

import msgspec
import structlog

from openledger.core.errors import InvalidInputError
from openledger.serving.native.compiler import cache_folder, compiled

log = structlog.get_logger()

TARGETS_AT_ONCE = 3
ROWS_AT_ONCE = 4
STREAMS = 8
QUERIES_AT_ONCE = 4
PANEL = 32  # outputs of a matrix whose numbers lie together
MOST_MEMBERS = 64  # of a mix


class InstructionSet(IntEnum):
    """What a CPU may have, the widest last."""

    PLAIN = 0
    AVX2 = 1
    AVX512 = 2


class AdapterPlan(Structure):
    """Which rows get which adapters."""

    _fields_: ClassVar = [
        ("parts", c_int32),
        ("threads", c_int32),
        ("part_start", c_void_p),
        ("row_start", c_void_p),
        ("rows", c_void_p),
        ("entry_start", c_void_p),
        ("entries", c_void_p),
        ("scratch", c_void_p),
        ("scratch_stride", c_int64),
        ("is_bf16", c_int32),
    ]


class SiteRecord(Structure):
    """One fused matrix and the targets in it."""

    _fields_: ClassVar = [
        ("first_target", c_int32),
        ("targets", c_int32),
        ("width", c_int32),
        ("stride", c_int32),
        ("out", c_int32 * TARGETS_AT_ONCE),
        ("column", c_int32 * TARGETS_AT_ONCE),
    ]


class HeadsRecord(Structure):
    """The heads of a model."""

    _fields_: ClassVar = [
        ("heads", c_int32),
        ("kv_heads", c_int32),
        ("head_dim", c_int32),
        ("head_stride", c_int32),
        ("is_bf16", c_int32),
        ("cosines", c_void_p),
        ("sines", c_void_p),
    ]


class ChunkPlan(Structure):
    """Where a step's chunks stand in the batch and in the cache."""

    _fields_: ClassVar = [
        ("chunks", c_int32),
        ("threads", c_int32),
        ("first_row", c_void_p),
        ("rows", c_void_p),
        ("start", c_void_p),
        ("table_start", c_void_p),
        ("tables", c_void_p),
        ("scratch", c_void_p),
        ("scratch_stride", c_int64),
    ]


class Library:
    """The functions of one compiled library; see `kernel.c` for each."""

    def __init__(self, path: str) -> None:
        library = ctypes.CDLL(path)
        self.norm = library.openledger_norm
        self.norm.argtypes = (
            *(c_int32, c_int32, c_int32, c_float),
            *(c_void_p, c_void_p, c_void_p, c_void_p, c_int32),
        )
        self.gate = library.openledger_gate
        self.gate.argtypes = (c_int32, c_int32, c_int32, c_void_p, c_void_p, c_int32)
        heads = (c_int32, POINTER(HeadsRecord), POINTER(ChunkPlan))
        self.rotate = library.openledger_rotate
        self.rotate.argtypes = (*heads, c_void_p, c_void_p, c_void_p)
        self.attend = library.openledger_attend
        self.attend.argtypes = (*heads, c_void_p, c_void_p, c_void_p, c_void_p)
        self.lora = library.openledger_lora
        self.lora.argtypes = (
            *(c_int32, c_void_p, c_void_p),
            *(c_int32, c_void_p, c_void_p),
        )
        self.product = library.openledger_product
        self.product.argtypes = (
            *(c_int32, c_int32, c_int32, c_int32, c_int32),
            *(c_void_p, c_void_p, c_void_p, c_void_p, c_int32),
        )
        for function in (self.norm, self.gate, self.rotate, self.attend, self.lora, self.product):
            function.restype = None
        self.widest = InstructionSet(library.openledger_widest())
        self.has_threads = bool(library.openledger_has_threads())


class Native(msgspec.Struct, frozen=True):
    """A library, and which of its instruction sets runs."""

    library: Library
    path: int  # an `InstructionSet`


@cache
def load_library() -> Library | None:
    """The library of this process; None where it cannot be compiled or loaded."""
    path = compiled(cache_folder())
    try:
        return None if path is None else Library(str(path))
    except (OSError, AttributeError) as error:  # damaged, or where nothing may be executed
        log.warning("kernels not loaded; delete the file", path=str(path), why=str(error))
        return None


def native(wanted: InstructionSet | None = None) -> Native | None:
    """The library of this process, with the widest instruction set unless a narrower is wanted.

    None where there is no library.

    Raises:
        InvalidInputError: this CPU has not what is wanted.
    """
    library = load_library()
    if library is None:
        return None
    if wanted is not None and wanted > library.widest:
        raise InvalidInputError(f"this CPU has {library.widest.name}, not {wanted.name}")
    return Native(library, int(library.widest if wanted is None else wanted))
