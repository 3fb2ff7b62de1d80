import pytest
import torch

from openledger.serving.llama.weights import Int8Linear, Make, PackedLinear, PlainLinear


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

    bias = matrix(1, 70, torch.float32)[0]

    found, with_bias = make(weight)(x), make(weight, bias)(x)

    assert torch.allclose(found.double(), wanted, rtol=0, atol=tolerance)
    assert torch.allclose(with_bias, found + bias, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("out", "width"), [(192, 64), (2816, 512), (512, 1408), (576, 1536)])
def test_a_packed_product_has_the_same_bits_in_any_company(
    dtype: torch.dtype, out: int, width: int
) -> None:
    bias = matrix(1, out, dtype)[0]
    linear, x = PackedLinear(matrix(out, width, dtype), bias), matrix(300, width, dtype)
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
