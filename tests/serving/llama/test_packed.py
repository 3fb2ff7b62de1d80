from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_128_digest

from openledger.core.encoding import encode
from openledger.core.errors import DigestMismatchError, InvalidInputError
from openledger.core.types import Digest
from openledger.lm.lora import TARGETS, LoraPair, LoraShape
from openledger.serving.llama.packed import (
    Header,
    Rooms,
    aligned,
    pack,
    read_packed,
    unpack,
    write_packed,
)
from openledger.serving.llama.shape import LlamaShape
from tests.serving.llama import naive

SHAPE = LlamaShape(3, 33, 2, 1, 6, 40, 8, 64, 1e-5)
DIGEST = Digest("a" * 64)
LORA = LoraShape(3, 5, (0, 2), ("q_proj", "o_proj"))


@given(
    rank=st.integers(1, 64),
    layers=st.sets(st.integers(0, 2), min_size=1),
    targets=st.lists(st.sampled_from(TARGETS), min_size=1, unique=True),
)
def test_factors_come_out_as_they_went_in(rank: int, layers: set[int], targets: list[str]) -> None:
    adapter = naive.random_adapter(
        SHAPE, LoraShape(rank, 7, tuple(sorted(layers)), tuple(targets)), 1
    )
    packed = naive.packed(adapter, SHAPE)

    assert packed.rank == rank
    assert packed.body.ctypes.data % 64 == 0
    for layer in range(3):
        for target in TARGETS:
            assert packed.has(layer, target) == (layer in layers and target in targets)
    for site, pair in adapter.pairs.items():
        a, b = packed.factors(site.layer, site.target, *SHAPE.size_of(site.target))
        assert torch.equal(a.float(), pair.a)
        assert torch.equal(b.float(), pair.b)


def content(lora: LoraShape = LORA) -> bytes:
    return pack(naive.random_adapter(SHAPE, lora, 1), DIGEST, SHAPE)


def test_ranks_are_filled_up_to_fours_and_a_number_has_12_bits() -> None:
    sizes = [len(content(LoraShape(r, 8, (0,)))) for r in (1, 4, 5)]
    each = sum(
        width + out
        for width, out in (((-(-n // 32) * 32) for n in SHAPE.size_of(t)) for t in TARGETS)
    )

    assert sizes[2] - sizes[1] == 4 * each * 3 // 2
    assert sizes[1] == sizes[0]


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "packed" / DIGEST
    write_packed(path, content())
    write_packed(path, content())
    found = read_packed(path, Rooms())

    assert found is not None
    packed = unpack(found, DIGEST, naive.BASE, SHAPE)
    assert packed.body.ctypes.data % 64 == 0
    assert packed.size_bytes == packed.body.nbytes
    assert [one.name for one in path.parent.iterdir()] == [DIGEST]
    assert path.stat().st_mode & 0o777 == 0o400


def test_there_may_be_no_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()

    assert read_packed(tmp_path / "missing", Rooms()) is None
    assert read_packed(tmp_path, Rooms()) is None  # a folder: unreadable
    with pytest.raises(DigestMismatchError):
        unpack(
            read_packed(tmp_path / "empty", Rooms()) or memoryview(b""), DIGEST, naive.BASE, SHAPE
        )


def test_a_file_that_is_cut_short_while_in_use_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / DIGEST
    write_packed(path, content())
    found = read_packed(path, Rooms())
    path.chmod(0o600)
    path.write_bytes(b"")

    assert found is not None
    assert unpack(found, DIGEST, naive.BASE, SHAPE).body.any()


def test_room_is_used_again_when_nobody_sees_it() -> None:
    rooms = Rooms()
    room = rooms.take(1_000)
    seen, address = room[900:], np.frombuffer(room).ctypes.data
    seen[:] = bytes([7] * 100)
    del room
    other = rooms.take(1_000)
    other[:] = bytes(1_000)

    assert seen.tolist() == [7] * 100
    assert address % 64 == 0
    del seen
    assert np.frombuffer(rooms.take(1_000)).ctypes.data == address


def test_room_of_another_size_is_new() -> None:
    rooms = Rooms()
    rooms.take(1_000).release()

    assert len(rooms.take(20_000)) == 20_000


def test_room_of_nearly_the_same_size_is_used_again() -> None:
    """Adapters of one shape differ by their strays."""
    rooms = Rooms()
    room = rooms.take(100_000)
    address = np.frombuffer(room).ctypes.data
    del room

    assert np.frombuffer(rooms.take(100_800)).ctypes.data == address


@pytest.mark.parametrize(
    "shape",
    [
        LoraShape(2, 8, (0, 99)),
        LoraShape(2, 8, (0, 0)),
        LoraShape(2, 8, ()),
        LoraShape(2**40, 8, ()),
        LoraShape(2, 65_537, (0,)),
        LoraShape(2, 8, (0,), ("q_proj", "unknown")),
    ],
)
def test_a_header_that_no_adapter_has_is_found(shape: LoraShape) -> None:
    header = encode(Header(naive.BASE, DIGEST, shape))
    rest = len(header).to_bytes(4, "little") + header
    rest += bytes(-(24 + len(rest)) % 64) + bytes(256)
    raw = content()[:8] + xxh3_128_digest(rest) + rest

    with pytest.raises(DigestMismatchError, match=r"rank|alpha|layer|target"):
        unpack(aligned(raw, Rooms()), DIGEST, naive.BASE, SHAPE)


@pytest.mark.parametrize("place", [0, 7, 20, 41, 60, -1])
def test_any_altered_byte_is_found(place: int) -> None:
    raw = bytearray(content())
    raw[place] ^= 1

    with pytest.raises(DigestMismatchError):
        unpack(aligned(bytes(raw), Rooms()), DIGEST, naive.BASE, SHAPE)


@pytest.mark.parametrize("length", [0, 8, 40, 44, 100, -2])
def test_a_truncated_file_is_refused(length: int) -> None:
    with pytest.raises(DigestMismatchError):
        unpack(aligned(content()[:length], Rooms()), DIGEST, naive.BASE, SHAPE)


def test_a_file_of_something_else_is_refused() -> None:
    other = LlamaShape(3, 33, 2, 1, 6, 80, 8, 64, 1e-5)
    whole = LoraShape(3, 5, (0,))

    with pytest.raises(DigestMismatchError, match="holds"):
        unpack(aligned(content(), Rooms()), Digest("c" * 64), naive.BASE, SHAPE)
    with pytest.raises(DigestMismatchError, match="holds"):
        unpack(aligned(content(), Rooms()), DIGEST, Digest("c" * 64), SHAPE)
    with pytest.raises(DigestMismatchError, match="size"):
        unpack(aligned(content(whole), Rooms()), DIGEST, naive.BASE, other)


def test_numbers_too_large_are_refused() -> None:
    adapter = naive.random_adapter(SHAPE, LORA, 1)
    site = next(iter(adapter.pairs))
    adapter.pairs[site] = LoraPair(adapter.pairs[site].a, adapter.pairs[site].b + 3.4e38)

    with pytest.raises(InvalidInputError, match="too large"):
        pack(adapter, DIGEST, SHAPE)


FACTORS = 3 * len(TARGETS) * 2


def forged(*changes: tuple[int, int, str]) -> memoryview:
    """A packed file with a true sum, where numbers at these bytes of the body are others.

    The body ends with its strays.
    """
    raw = bytearray(pack(naive.random_adapter(SHAPE, LORA, 1, 40), DIGEST, SHAPE))
    unpack(aligned(bytes(raw), Rooms()), DIGEST, naive.BASE, SHAPE)
    start = 28 + int.from_bytes(raw[24:28], "little")
    body = np.frombuffer(raw, np.uint8)[start + -start % 64 :]
    for place, value, kind in changes:
        body[place:][: np.dtype(kind).itemsize] = np.array([value], kind).view(np.uint8)
    del body
    raw[8:24] = xxh3_128_digest(raw[24:])
    return aligned(bytes(raw), Rooms())


FIRST_STRAY = -(-FACTORS * 16 // 64) * 64


@pytest.mark.parametrize(
    ("place", "value", "kind"),
    [
        (-8, -1, "<i4"),  # columns
        (-8, 33, "<i4"),
        (-8, 2**31 - 1, "<i4"),
        (-4, 3, "<u2"),  # a rank
        (-8, 0, "<i4"),  # before the last but one
        (FIRST_STRAY, 1, "<i4"),  # where the strays of a factor begin
        (FIRST_STRAY + 4, -1, "<i4"),
        (FIRST_STRAY + 4, 2**30, "<i4"),
        (FIRST_STRAY + 4 * FACTORS, 2**30, "<i4"),
        (FIRST_STRAY + 4 * FACTORS, 0, "<i4"),
    ],
)
def test_strays_that_cannot_be_are_found(place: int, value: int, kind: str) -> None:
    """Else the kernels would read, or write, at an address that a file names."""
    with pytest.raises(DigestMismatchError, match="strays that cannot be"):
        unpack(forged((place, value, kind)), DIGEST, naive.BASE, SHAPE)


def test_the_same_stray_twice_is_found() -> None:
    last = np.frombuffer(forged(), np.uint8)[-8:]
    column, rank = int(last[:4].view("<i4")[0]), int(last[4:6].view("<u2")[0])

    with pytest.raises(DigestMismatchError, match="strays that cannot be"):
        unpack(forged((-16, column, "<i4"), (-12, rank, "<u2")), DIGEST, naive.BASE, SHAPE)


def test_strays_of_a_factor_that_is_not_there_are_found() -> None:
    """All of the strays said to be of the first layer's keys, which this adapter leaves alone."""
    file = forged()
    start = 28 + int.from_bytes(file[24:28], "little")
    body = np.frombuffer(file, np.uint8)[start + -start % 64 :]
    count = int(body[FIRST_STRAY + 4 * FACTORS :][:4].view("<i4")[0])
    key = 2 * TARGETS.index("k_proj")
    first = [(FIRST_STRAY + 4 * i, count if i > key else 0, "<i4") for i in range(FACTORS + 1)]

    assert count > 9
    with pytest.raises(DigestMismatchError, match="strays that cannot be"):
        unpack(forged(*first), DIGEST, naive.BASE, SHAPE)
