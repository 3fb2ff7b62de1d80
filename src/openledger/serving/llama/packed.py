"""An adapter as the kernels read it: one stream of bfloat16 numbers, checked when it is read.

A file is magic, XXH3 (128 bits, big-endian) of all that follows, length of the header, header
(canonical JSON), zeros up to a multiple of 64 bytes, factors. Each factor lies in the tiles that
`lora.h` describes, by layer and within it by target, A before B; ranks are the adapter's own, rows
are filled up to 32 numbers. Factors stay as trained but for rounding; alpha / rank is applied to
the few numbers in between. The sum finds damage: whoever may write into a home's folder can make a
sum as well as a file.
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
from openledger.serving.llama.shape import LlamaShape

log = structlog.get_logger()

TILE = 32
_MAGIC = b"OLPACK\x00\x02"  # the last byte is the version
_ALIGNMENT = 64
_SUM_END = len(_MAGIC) + 16
_LENGTH_END = _SUM_END + 4
_NUMBER = np.dtype("<u2")  # a bfloat16's bits
_SPARE_ROOMS = 2  # kept beyond what adapters may take
_KNOWN_LAYOUTS = 64


class Header(msgspec.Struct, frozen=True):
    """What a packed file is."""

    base: Digest
    adapter: Digest
    lora: LoraShape


class Layout(msgspec.Struct, frozen=True):
    """Where the factors of an adapter's shape lie."""

    offsets: NDArray[np.int64]  # (L, targets): where in the body each pair begins; -1: nowhere
    numbers: int  # of the body


class PackedAdapter:
    """An adapter in memory."""

    def __init__(self, header: Header, model: LlamaShape, body: NDArray[np.uint16]) -> None:
        """`body` is what follows the header, and lives as long as this does."""
        self.digest = header.adapter
        self.lora = header.lora
        self.body = body
        self.offsets = _layout(header.lora, model).offsets

    @property
    def rank(self) -> int:
        return self.lora.rank

    @property
    def size_bytes(self) -> int:
        return self.body.nbytes

    def factors(self, layer: int, target: str, width: int, out: int) -> tuple[Tensor, Tensor]:
        """A (R, width) and B (out, R) in bfloat16, as the adapter had them."""
        numbers = torch.from_numpy(self.body.view(np.int16)).view(torch.bfloat16)
        at = int(self.offsets[layer, TARGETS.index(target)])
        size_a = self.rank * _padded(width)
        a = _unpack_a(numbers[at : at + size_a], self.rank, width)
        b = _untiled(numbers[at + size_a :][: self.rank * _padded(out)], self.rank)
        return a, b[:, :out].T

    def has(self, layer: int, target: str) -> bool:
        """Whether this linear layer is adapted."""
        return bool(self.offsets[layer, TARGETS.index(target)] >= 0)


def pack(adapter: Adapter, digest: Digest) -> bytes:
    """The content of a packed file.

    Raises:
        InvalidInputError: a number is too large for bfloat16.
    """
    parts = []
    for site in adapter.shape.sites:
        pair = adapter.pairs[site]
        parts += [_pack_a(pair.a.detach().bfloat16()), _tiled(pair.b.detach().bfloat16().T)]
    numbers = torch.cat(parts)
    if not bool(torch.isfinite(numbers).all()):
        raise InvalidInputError(f"adapter {digest} holds numbers that are too large for bfloat16")
    header = encode(Header(adapter.base, digest, adapter.shape))
    rest = len(header).to_bytes(4, "little") + header
    rest += bytes(-(_SUM_END + len(rest)) % _ALIGNMENT)
    rest += numbers.view(torch.int16).numpy().astype("<i2").tobytes()
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
    body = np.frombuffer(content[end + -end % _ALIGNMENT :], _NUMBER)
    if len(body) != _layout(header.lora, model).numbers:
        raise DigestMismatchError(f"the packed file of adapter {adapter} has another size")
    return PackedAdapter(header, model, body)


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
        memory = self._recycled(size + _ALIGNMENT)
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


def groups_of(rank: int) -> list[int]:
    """How the ranks of A lie together: eights, then four, two and one."""
    groups = [8] * (rank // 8)
    return groups + [size for size in (4, 2, 1) if rank % 8 & size]


def _padded(width: int) -> int:
    return -(-width // TILE) * TILE


@lru_cache(_KNOWN_LAYOUTS)
def _layout(lora: LoraShape, model: LlamaShape) -> Layout:
    offsets = np.full((model.layers, len(TARGETS)), -1, np.int64)
    sizes, at = _sizes(lora, model), 0
    for site in lora.sites:
        offsets[site.layer, TARGETS.index(site.target)] = at
        at += sizes[site.target]
    offsets.setflags(write=False)  # all adapters of this shape have it
    return Layout(offsets, at)


def _sizes(lora: LoraShape, model: LlamaShape) -> dict[str, int]:
    """Of each target's pair, numbers that it is filled up with included."""
    return {target: lora.rank * sum(map(_padded, model.size_of(target))) for target in lora.targets}


def _tiled(rows: Tensor) -> Tensor:
    """(R, width) to a stream of (tiles, R, TILE), numbers i and i + 16 of a tile side by side."""
    padded = torch.nn.functional.pad(rows, (0, _padded(rows.shape[1]) - rows.shape[1]))
    tiles = padded.view(len(rows), -1, 2, TILE // 2).permute(1, 0, 3, 2)
    return tiles.reshape(-1)


def _untiled(stream: Tensor, rank: int) -> Tensor:
    """The inverse of `_tiled`, filled up."""
    tiles = stream.view(-1, rank, TILE // 2, 2).permute(1, 0, 3, 2)
    return tiles.reshape(rank, -1)


def _pack_a(a: Tensor) -> Tensor:
    return torch.cat([_tiled(group) for group in torch.split(a, groups_of(len(a)))])


def _unpack_a(stream: Tensor, rank: int, width: int) -> Tensor:
    sizes = groups_of(rank)
    streams = torch.split(stream, [size * _padded(width) for size in sizes])
    groups = [_untiled(one, size) for one, size in zip(streams, sizes, strict=True)]
    return torch.cat(groups)[:, :width]
