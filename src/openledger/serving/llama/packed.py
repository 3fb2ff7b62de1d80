"""An adapter as the kernels read it: bfloat16 in 12 bits a number, checked when it is read.

A file is magic, XXH3 (128 bits, big-endian) of all that follows, length of the header, header
(canonical JSON), and then, each from a multiple of 64 bytes on and little-endian: the tables of all
factors that a model of this depth can have, where the strays of each begin, the quads of those that
are there (see `quads`), by layer and within it by target, A before B, and the strays. Factors stay
as trained but for rounding to bfloat16; alpha / rank is applied to the few numbers in between. The
sum finds damage: whoever may write into a home's folder can make a sum as well as a file, but none
that makes the kernels read or write elsewhere.
"""

import os
import tempfile
from collections import deque
from functools import lru_cache
from pathlib import Path
from weakref import finalize

import msgspec
import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor
from xxhash import xxh3_128_digest

from openledger.core.encoding import encode, from_wire
from openledger.core.errors import DigestMismatchError, InvalidInputError, full_disk
from openledger.core.types import Digest
from openledger.lm.checkpoint import check_shape
from openledger.lm.lora import TARGETS, Adapter, LoraShape
from openledger.serving.llama.quads import (
    STRAY,
    TABLE,
    Factor,
    decode_factor,
    encode_factor,
    quads_bytes,
)
from openledger.serving.llama.shape import LlamaShape

log = structlog.get_logger()

_MAGIC = b"OLPACK\x00\x03"  # the last byte is the version
_ALIGNMENT = 64
_SUM_END = len(_MAGIC) + 16
_LENGTH_END = _SUM_END + 4
_PLACE = np.dtype("<i4")  # among the strays
_SPARE_ROOMS = 2  # kept beyond what adapters may take
_ROOM = 1 << 14  # rooms are multiples of it, so that adapters of one shape fit each other's
_KNOWN_LAYOUTS = 64


class Header(msgspec.Struct, frozen=True):
    """What a packed file is."""

    base: Digest
    adapter: Digest
    lora: LoraShape


class Layout(msgspec.Struct, frozen=True):
    """Where what of an adapter's shape lies."""

    offsets: NDArray[np.int64]  # (L, targets): where among the quads each pair begins; -1: nowhere
    widths: NDArray[np.int64]  # (2 L targets,) of each factor's rows; 0: it is not there
    places_at: int  # in the body: where the strays of each factor begin
    quads_at: int
    strays_at: int


class PackedAdapter:
    """An adapter in memory."""

    def __init__(self, header: Header, layout: Layout, body: NDArray[np.uint8]) -> None:
        """`body` is what follows the header, and lives as long as this does.

        Raises:
            DigestMismatchError: it has another size, or strays that are nowhere in the adapter.
        """
        self.digest = header.adapter
        self.lora = header.lora
        self.body = body
        self.offsets = layout.offsets
        if len(body) < layout.strays_at or (len(body) - layout.strays_at) % STRAY.itemsize:
            raise DigestMismatchError(f"the packed file of adapter {self.digest} has another size")
        factors = len(layout.widths)
        self._uppers = body[: factors * TABLE].reshape(-1, TABLE)
        self._first_stray = body[layout.places_at :][: (factors + 1) * _PLACE.itemsize].view(_PLACE)
        self._quads = body[layout.quads_at : layout.strays_at]
        self._strays = body[layout.strays_at :].view(STRAY)
        if not _are_sound(self._strays, self._first_stray, layout.widths, self.rank):
            raise DigestMismatchError(
                f"the packed file of adapter {self.digest} has strays that cannot be in it"
            )
        parts = (self._quads, self.offsets, self._uppers, self._first_stray, self._strays)
        # Asking an array for its address takes longer than a kernel takes for a row.
        self.addresses = tuple(part.ctypes.data for part in parts)

    @property
    def rank(self) -> int:
        return self.lora.rank

    @property
    def size_bytes(self) -> int:
        return self.body.nbytes

    def factors(self, layer: int, target: str, width: int, out: int) -> tuple[Tensor, Tensor]:
        """A (R, width) and B (out, R) in bfloat16, as the adapter had them."""
        place = TARGETS.index(target)
        found, at = [], int(self.offsets[layer, place])
        for is_b, size in enumerate((width, out)):
            factor = 2 * (layer * len(TARGETS) + place) + is_b
            first, end = self._first_stray[factor : factor + 2]
            length = quads_bytes(self.rank, size)
            packed = Factor(
                self._uppers[factor], self._quads[at : at + length], self._strays[first:end]
            )
            bits = decode_factor(packed, self.rank, size, is_b=bool(is_b))
            found.append(torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16))
            at += length
        return found[0], found[1].T

    def has(self, layer: int, target: str) -> bool:
        """Whether this linear layer is adapted."""
        return bool(self.offsets[layer, TARGETS.index(target)] >= 0)


def _are_sound(
    strays: NDArray[np.void], first: NDArray[np.int32], widths: NDArray[np.int64], rank: int
) -> bool:
    """Whether each stray is of a factor that is there and within it, by column and then by rank."""
    each = first[1:].astype(np.int64) - first[:-1]
    if first[0] != 0 or first[-1] != len(strays) or each.min() < 0:
        return False
    columns, ranks = strays["column"].astype(np.int64), strays["rank"].astype(np.int64)
    inside = (columns >= 0) & (columns < np.repeat(widths, each)) & (ranks < rank)
    # No column reaches 2**31, and no rank 2**16.
    places = np.repeat(np.arange(len(each)), each) << 47 | columns << 16 | ranks
    return bool(inside.all()) and bool((places[1:] > places[:-1]).all())


def pack(adapter: Adapter, digest: Digest, model: LlamaShape) -> bytes:
    """The content of a packed file.

    Raises:
        InvalidInputError: a number is too large for bfloat16.
    """
    layout = _layout(adapter.shape, model)
    uppers = np.zeros((len(layout.widths), TABLE), np.uint8)
    first_stray = np.zeros(len(layout.widths) + 1, _PLACE)
    quads: list[NDArray[np.uint8]] = []
    strays: dict[int, NDArray[np.void]] = {}
    for site in adapter.shape.sites:
        pair = adapter.pairs[site]
        for is_b, rows in enumerate((pair.a, pair.b.T)):
            numbers = rows.detach().bfloat16()
            if not bool(torch.isfinite(numbers).all()):
                raise InvalidInputError(
                    f"adapter {digest} holds numbers that are too large for bfloat16"
                )
            bits = numbers.contiguous().view(torch.int16).numpy().view(np.uint16)
            factor = encode_factor(bits, is_b=bool(is_b))
            place = 2 * (site.layer * len(TARGETS) + TARGETS.index(site.target)) + is_b
            uppers[place] = factor.uppers
            first_stray[place + 1] = len(factor.strays)
            quads.append(factor.quads)
            strays[place] = factor.strays
    np.cumsum(first_stray, out=first_stray)
    body = bytearray(layout.strays_at)
    body[: uppers.nbytes] = uppers.tobytes()
    body[layout.places_at : layout.places_at + first_stray.nbytes] = first_stray.tobytes()
    body[layout.quads_at :] = np.concatenate(quads).tobytes()
    header = encode(Header(adapter.base, digest, adapter.shape))
    rest = len(header).to_bytes(4, "little") + header
    rest += bytes(-(_SUM_END + len(rest)) % _ALIGNMENT)
    rest += body + np.concatenate([strays[place] for place in sorted(strays)]).tobytes()
    return _MAGIC + xxh3_128_digest(rest) + rest


def unpack(content: memoryview, adapter: Digest, base: Digest, model: LlamaShape) -> PackedAdapter:
    """Check the content of a packed file and read it in place.

    Raises:
        DigestMismatchError: it is damaged, of another version, or of another adapter or base.
    """
    if content[: len(_MAGIC)] != _MAGIC or len(content) < _LENGTH_END:
        raise DigestMismatchError(f"the packed file of adapter {adapter} is of another version")
    if xxh3_128_digest(content[_SUM_END:]) != content[len(_MAGIC) : _SUM_END]:
        raise DigestMismatchError(f"the packed file of adapter {adapter} is damaged")
    end = _LENGTH_END + int.from_bytes(content[_SUM_END:_LENGTH_END], "little")
    try:
        header = from_wire(bytes(content[_LENGTH_END:end]), Header)
    except InvalidInputError as error:
        raise DigestMismatchError(f"the packed file of adapter {adapter}: {error}") from error
    if (header.adapter, header.base) != (adapter, base):
        raise DigestMismatchError(f"the packed file of adapter {adapter} holds {header.adapter}")
    try:
        check_shape(header.lora, model.layers)
    except InvalidInputError as error:
        raise DigestMismatchError(f"the packed file of adapter {adapter}: {error}") from error
    body = np.frombuffer(content[end + -end % _ALIGNMENT :], np.uint8)
    return PackedAdapter(header, _layout(header.lora, model), body)


@full_disk()
def write_packed(path: Path, content: bytes) -> None:
    """Write a packed file whole or not at all; nobody writes to it again.

    Raises:
        StorageFullError: the disk is full.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".packed-", dir=path.parent)
    scratch = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        scratch.chmod(0o400)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


class Rooms:
    """Memory for adapters that come and go; what the last ones left is used again.

    Fresh memory is given out by the system page by page, which takes longer than to read a file
    into it. Safe to use from any thread.
    """

    def __init__(self) -> None:
        self._spare: deque[NDArray[np.uint8]] = deque(maxlen=_SPARE_ROOMS)

    def take(self, size: int) -> memoryview:
        """So many bytes from a multiple of 64 on, of any content."""
        memory = self._recycled(_rounded(size + _ALIGNMENT, _ROOM))
        first = -memory.ctypes.data % _ALIGNMENT
        room = memory[first : first + size]
        finalize(room, self._spare.append, memory)  # when no view of it is left
        return room.data

    def _recycled(self, size: int) -> NDArray[np.uint8]:
        try:
            memory = self._spare.pop()
        except IndexError:
            return np.empty(size, np.uint8)
        return memory if len(memory) == size else np.empty(size, np.uint8)


def read_packed(path: Path, rooms: Rooms) -> memoryview | None:
    """The content of a packed file; None if there is none, or, with a warning, if it is unreadable.

    It is copied, not mapped: who cuts a mapped file short ends the process that reads it.
    """
    try:
        with path.open("rb", buffering=0) as stream:
            room = rooms.take(os.fstat(stream.fileno()).st_size)
            return room[: stream.readinto(room)]
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("packed adapter not read", adapter=path.name, why=str(error))
        return None


def aligned(content: bytes, rooms: Rooms) -> memoryview:
    """A copy whose factors begin at a multiple of 64 bytes."""
    copy = rooms.take(len(content))
    copy[:] = content
    return copy


@lru_cache(_KNOWN_LAYOUTS)
def _layout(lora: LoraShape, model: LlamaShape) -> Layout:
    offsets = np.full((model.layers, len(TARGETS)), -1, np.int64)
    widths = np.zeros((model.layers, len(TARGETS), 2), np.int64)
    sizes, at = _sizes(lora, model), 0
    for site in lora.sites:
        place = site.layer, TARGETS.index(site.target)
        offsets[place], widths[place] = at, model.size_of(site.target)
        at += sizes[site.target]
    for array in (offsets, widths):
        array.setflags(write=False)  # all adapters of this shape have it
    places_at = _rounded(widths.size * TABLE)
    quads_at = places_at + _rounded((widths.size + 1) * _PLACE.itemsize)
    return Layout(offsets, widths.ravel(), places_at, quads_at, quads_at + at)


def _sizes(lora: LoraShape, model: LlamaShape) -> dict[str, int]:
    """Bytes of each target's quads."""
    return {
        target: sum(quads_bytes(lora.rank, width) for width in model.size_of(target))
        for target in lora.targets
    }


def _rounded(size: int, grain: int = _ALIGNMENT) -> int:
    return -(-size // grain) * grain
