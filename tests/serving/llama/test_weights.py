import pytest
import torch

from openledger.serving.llama.weights import Int8Linear, Make, PackedLinear, PlainLinear
from openledger.serving.native.library import InstructionSet
from tests.serving.tiny import native_of


def matrix(out: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(out)
    numbers = torch.randn(out, width, generator=generator)
    return numbers.div(width**0.5).to(dtype)


@pytest.mark.parametrize("make", [PackedLinear, PlainLinear, Int8Linear])
@pytest.mark.parametrize("rows", [1, 2, 5, 80])
def test_products_are_those_of_the_matrix(make: Make, rows: int) -> None:
    weight, x = matrix(70, 45, torch.float32), matrix(rows, 45, torch.float32)
    wanted = x.double() @ weight.double().T
    tolerance = 0.02 if make is Int8Linear else 1e-5

    found = make(weight)(x)

    assert torch.allclose(found.double(), wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize("width", [8, 24, 45, 50, 64, 80])
@pytest.mark.parametrize("rows", [1, 3, 70])
def test_8_bits_and_bfloat16_go_with_any_width(width: int, rows: int) -> None:
    weight, x = matrix(70, width, torch.bfloat16), matrix(rows, width, torch.bfloat16)
    wanted = x.float() @ weight.float().T

    # torch's own product of such numbers reads past the end of rows that are no multiple of 16.
    assert torch.allclose(Int8Linear(weight)(x).float(), wanted, rtol=0.01, atol=0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("instruction_set", InstructionSet)
@pytest.mark.parametrize(("out", "width"), [(1, 1), (70, 45), (130, 96), (67, 520)])
def test_the_kernel_for_8_bits_multiplies_each_row_alone(
    dtype: torch.dtype, instruction_set: InstructionSet, out: int, width: int
) -> None:
    weight, x = matrix(out, width, dtype), matrix(9, width, dtype)
    linear = Int8Linear(weight, native=native_of(instruction_set))
    whole = linear(x)

    rounded = linear(torch.eye(max(width, 64), width, dtype=dtype))[:width]  # widened, for so many
    assert torch.allclose(rounded.T.double(), weight.double(), rtol=0.01, atol=0.02)
    assert torch.allclose(whole.double(), x.double() @ rounded.double(), rtol=0.01, atol=0.01)
    for first, count in ((0, 1), (3, 2), (2, 3), (4, 5), (1, 8)):
        assert torch.equal(linear(x[first : first + count]), whole[first : first + count])


def test_the_kernel_for_8_bits_gives_the_same_on_two_threads() -> None:
    weight, x = matrix(200, 96, torch.bfloat16), matrix(5, 96, torch.bfloat16)
    linear = Int8Linear(weight, native=native_of(InstructionSet.PLAIN))
    alone = linear(x)
    torch.set_num_threads(2)
    try:
        assert torch.equal(linear(x), alone)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("out", "width"), [(192, 64), (2816, 512), (512, 1408), (576, 1536)])
def test_a_packed_product_has_the_same_bits_in_any_company(
    dtype: torch.dtype, out: int, width: int
) -> None:
    linear, x = PackedLinear(matrix(out, width, dtype)), matrix(300, width, dtype)
    whole = linear(x)

    for first, count in (
        *((0, 1), (299, 1), (3, 2), (5, 3), (1, 5), (7, 9), (20, 16), (40, 17), (0, 31), (11, 32)),
        *((2, 33), (9, 40), (100, 48), (0, 64), (31, 65), (50, 100), (130, 128)),
    ):
        rows = slice(first, first + count)
        assert torch.equal(linear(x[rows].clone()), whole[rows]), (first, count)


def test_a_row_of_zeros_stays_zero_in_8_bits() -> None:
    weight = matrix(4, 8, torch.float32)
    weight[2] = 0

    assert not Int8Linear(weight)(torch.ones(3, 8))[:, 2].any()
