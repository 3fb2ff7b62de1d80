"""Tensors that lie side by side in large pages."""

import errno
import mmap
import os

import pytest
import torch

from openledger.serving.native.memory import LargePages


@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(), (3, 5), (7, 1, 9)])
def test_a_tensor_has_its_shape_and_holds_zeros(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    found = LargePages().take(shape, dtype)

    assert found.shape == shape
    assert found.dtype == dtype
    assert not found.any()


def test_tensors_are_aligned_and_apart() -> None:
    pages = LargePages()
    taken = [pages.take((size,), torch.int8) for size in (1, 63, 64, 65, (1 << 26) + 1, 3)]

    for number, one in enumerate(taken):
        one.fill_(number + 1)

    assert taken[0].data_ptr() % (1 << 21) == 0
    assert all(one.data_ptr() % 64 == 0 for one in taken)
    assert all((one == number + 1).all() for number, one in enumerate(taken))


def test_a_child_process_has_its_own() -> None:
    taken = LargePages().take((4,), torch.int8)
    child = os.fork()
    if not child:
        taken.fill_(1)
        os._exit(0)
    os.waitpid(child, 0)

    assert not taken.any()


def test_a_system_without_large_pages_gives_others(monkeypatch: pytest.MonkeyPatch) -> None:
    class Without(mmap.mmap):
        def madvise(self, *_: object) -> None:
            raise OSError(errno.EINVAL, "no such advice")

    monkeypatch.setattr(mmap, "mmap", Without)

    assert not LargePages().take((4,), torch.int8).any()


def test_a_tensor_outlives_what_handed_it_out() -> None:
    first = LargePages().take((1 << 20,), torch.float32)
    others = [LargePages().take((1 << 20,), torch.float32).fill_(1) for _ in range(8)]

    assert len(others) == 8
    assert not first.any()
