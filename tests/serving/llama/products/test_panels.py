"""Products of the kernel, on every instruction set of this CPU."""

from collections.abc import Callable
from functools import partial

import pytest
import torch

from openledger.core.errors import InvalidInputError
from openledger.serving.llama.products.linear import Make
from openledger.serving.llama.products.panels import Int8PanelLinear, PanelLinear
from openledger.serving.native.library import InstructionSet
from openledger.serving.native.memory import LargePages
from tests.serving.llama.products.matrices import COMPANIES, matrix
from tests.serving.tiny import native_of

BOTH = [torch.float32, torch.bfloat16]
SIZES = [(1, 1), (70, 45), (130, 96), (67, 520), (32, 128), (33, 300), (96, 1408)]  # out, width


def in_float32(instruction_set: InstructionSet) -> Make:
    return partial(PanelLinear, native=native_of(instruction_set), pages=LargePages())


def in_8_bits(instruction_set: InstructionSet) -> Make:
    return partial(Int8PanelLinear, native=native_of(instruction_set), pages=LargePages())


@pytest.mark.parametrize("instruction_set", InstructionSet)
@pytest.mark.parametrize(("out", "width"), SIZES)
def test_a_product_is_that_of_the_matrix(
    instruction_set: InstructionSet, out: int, width: int
) -> None:
    weight, x = matrix(out, width, torch.float32), matrix(300, width, torch.float32)
    bias = matrix(1, out, torch.float32)[0]
    linear = in_float32(instruction_set)(weight, bias)

    wanted = x.double() @ weight.double().T + bias
    assert torch.allclose(linear(x).double(), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("instruction_set", InstructionSet)
@pytest.mark.parametrize(("out", "width"), SIZES)
def test_a_row_has_the_same_bits_in_any_company(
    instruction_set: InstructionSet, out: int, width: int
) -> None:
    linear = in_float32(instruction_set)(matrix(out, width, torch.float32))
    x = matrix(300, width, torch.float32)
    whole = linear(x)

    for first, count in COMPANIES:
        rows = slice(first, first + count)
        assert torch.equal(linear(x[rows].clone()), whole[rows]), (first, count)


@pytest.mark.parametrize("make", [in_float32, in_8_bits])
@pytest.mark.parametrize(("out", "width"), SIZES)
def test_two_instruction_sets_make_the_same_bits(
    make: Callable[[InstructionSet], Make], out: int, width: int
) -> None:
    """Both multiply and add at once, one input after the other."""
    weight, x = matrix(out, width, torch.float32), matrix(40, width, torch.float32)

    found = [make(one)(weight)(x) for one in (InstructionSet.AVX2, InstructionSet.AVX512)]

    assert torch.equal(*found)


@pytest.mark.parametrize("dtype", BOTH)
@pytest.mark.parametrize("instruction_set", InstructionSet)
@pytest.mark.parametrize(("out", "width"), SIZES)
def test_8_bits_are_those_of_the_matrix(
    dtype: torch.dtype, instruction_set: InstructionSet, out: int, width: int
) -> None:
    rows = 300 if dtype == torch.float32 else 127
    weight, x = matrix(out, width, dtype), matrix(rows, width, dtype)
    bias = matrix(1, out, dtype)[0]
    linear = in_8_bits(instruction_set)(weight)
    whole = linear(x)

    rounded = linear(torch.eye(width, dtype=dtype))[:width]
    assert torch.allclose(rounded.T.double(), weight.double(), rtol=0.01, atol=0.02)
    assert torch.allclose(whole.double(), x.double() @ rounded.double(), rtol=0.01, atol=0.01)
    assert torch.equal(in_8_bits(instruction_set)(weight, bias)(x), whole + bias)
    for first, count in ((0, 1), (3, 2), (2, 3), (4, 5), (1, 8), (40, 17), (2, 33), (9, 49)):
        assert torch.equal(linear(x[first : first + count]), whole[first : first + count])


def test_many_rows_of_bfloat16_are_much_the_same_as_few() -> None:
    """They go another way, so some last bits differ."""
    weight, x = matrix(96, 1408, torch.bfloat16), matrix(300, 1408, torch.bfloat16)
    linear = in_8_bits(InstructionSet.PLAIN)(weight)
    many, few = linear(x)[:100].float(), linear(x[:100]).float()

    assert torch.allclose(many, few, rtol=0.01, atol=0.01)
    assert not torch.equal(many, few)


@pytest.mark.parametrize("make", [in_float32, in_8_bits])
def test_rows_may_lie_apart_and_must_fit(make: Callable[[InstructionSet], Make]) -> None:
    linear = make(InstructionSet.PLAIN)(matrix(40, 30, torch.float32))
    x = matrix(9, 60, torch.float32)

    assert torch.equal(linear(x[:, ::2]), linear(x[:, ::2].contiguous()))
    with pytest.raises(InvalidInputError, match="do not fit 30 inputs"):
        linear(x)


@pytest.mark.parametrize("instruction_set", InstructionSet)
@pytest.mark.parametrize("rows", [5, 80])
def test_two_threads_make_the_same(instruction_set: InstructionSet, rows: int) -> None:
    weight = matrix(400, 96, torch.float32)
    makes = in_float32(instruction_set), in_8_bits(instruction_set)
    linears, x = [make(weight) for make in makes], matrix(rows, 96, torch.float32)
    alone = [linear(x) for linear in linears]
    torch.set_num_threads(2)
    try:
        assert all(torch.equal(linear(x), one) for linear, one in zip(linears, alone, strict=True))
    finally:
        torch.set_num_threads(1)


def test_a_row_of_zeros_stays_zero_in_8_bits() -> None:
    weight = matrix(4, 8, torch.float32)
    weight[2] = 0

    assert not in_8_bits(InstructionSet.PLAIN)(weight)(torch.ones(3, 8))[:, 2].any()
