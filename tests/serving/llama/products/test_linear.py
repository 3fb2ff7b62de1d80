"""Products of torch and oneDNN."""

import pytest
import torch

from openledger.serving.llama.products.linear import Int8Linear, Make, PackedLinear, PlainLinear
from tests.serving.llama.products.matrices import COMPANIES, matrix


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


@pytest.mark.parametrize("width", [8, 24, 45, 50, 64, 80])
@pytest.mark.parametrize("rows", [1, 3, 70])
def test_8_bits_and_bfloat16_go_with_any_width(width: int, rows: int) -> None:
    weight, x = matrix(70, width, torch.bfloat16), matrix(rows, width, torch.bfloat16)
    wanted = x.float() @ weight.float().T

    # torch's own product of such numbers reads past the end of rows that are no multiple of 16.
    assert torch.allclose(Int8Linear(weight)(x).float(), wanted, rtol=0.01, atol=0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("out", "width"), [(192, 64), (2816, 512), (512, 1408), (576, 1536)])
def test_a_packed_product_has_the_same_bits_in_any_company(
    dtype: torch.dtype, out: int, width: int
) -> None:
    bias = matrix(1, out, dtype)[0]
    linear, x = PackedLinear(matrix(out, width, dtype), bias), matrix(300, width, dtype)
    whole = linear(x)

    for first, count in COMPANIES:
        rows = slice(first, first + count)
        assert torch.equal(linear(x[rows].clone()), whole[rows]), (first, count)


def test_a_row_of_zeros_stays_zero_in_8_bits() -> None:
    weight = matrix(4, 8, torch.float32)
    weight[2] = 0

    assert not Int8Linear(weight)(torch.ones(3, 8))[:, 2].any()
