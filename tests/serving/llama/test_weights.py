"""Who multiplies by a base's matrices."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from openledger.lm.base import load_base
from openledger.serving.llama.products.linear import Int8Linear, PackedLinear, PlainLinear
from openledger.serving.llama.products.panels import Int8PanelLinear, PanelLinear
from openledger.serving.llama.weights import weights_of
from openledger.serving.native.library import InstructionSet, Library, Native

LIBRARIES = (PackedLinear, PlainLinear)


def machine(path: InstructionSet, *, has_threads: bool = True) -> Native:
    """Kernels that are chosen, and not called."""
    return Native(cast("Library", SimpleNamespace(has_threads=has_threads)), int(path))


@pytest.mark.parametrize(
    ("native", "is_int8", "wanted"),
    [
        (machine(InstructionSet.AVX512), False, (PanelLinear,)),
        (machine(InstructionSet.AVX2), False, (PanelLinear,)),
        (machine(InstructionSet.PLAIN), False, LIBRARIES),
        (machine(InstructionSet.AVX512, has_threads=False), False, LIBRARIES),
        (None, False, LIBRARIES),
        (machine(InstructionSet.AVX2), True, (Int8PanelLinear,)),
        (machine(InstructionSet.PLAIN), True, (Int8Linear,)),
        (machine(InstructionSet.AVX512, has_threads=False), True, (Int8Linear,)),
        (None, True, (Int8Linear,)),
    ],
)
def test_the_kernel_multiplies_where_it_is_faster(
    base_folder: Path, native: Native | None, is_int8: bool, wanted: tuple[type, ...]
) -> None:
    weights = weights_of(
        load_base(base_folder, dtype=torch.float32).model, is_int8=is_int8, native=native
    )

    assert isinstance(weights.head, wanted)
    assert all(isinstance(one, wanted) for layer in weights.layers for one in layer.matrices)


def test_bfloat16_is_the_librarys(base_folder: Path) -> None:
    native = machine(InstructionSet.AVX512)
    weights = weights_of(load_base(base_folder, dtype=torch.bfloat16).model, native=native)

    assert isinstance(weights.head, LIBRARIES)
