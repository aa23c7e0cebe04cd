"""Products with W + kron(w1, w2): values and gradients of the explicit weight, and a change that no rounding of W swallows."""

import repro  # noqa: F401 - fixes the numeric environment
from repro.numerics import fix_torch

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck
from torch.autograd.graph import saved_tensors_hooks

from training.kronecker import KroneckerConv2d, KroneckerLinear, order_costs, w1_goes_first

fix_torch()
# (a, c), (b, d): the second goes through w2 before w1, the others after it; the third has no groups at all.
MATRICES = [((2, 4), (9, 3)), ((3, 2), (2, 7)), ((1, 1), (5, 4))]
# kernel, stride, padding, picture
WINDOWS = [(1, 1, 0, (3, 4)), (3, 1, 1, (4, 3)), (3, 2, 1, (5, 6)), (3, 2, 0, (6, 7))]


def draw(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def weight_change(w1: Tensor, w2: Tensor) -> Tensor:
    return torch.kron(w1.view(*w1.shape, *[1] * (w2.ndim - 2)), w2)


def linear_operands(shapes: tuple[tuple[int, int], tuple[int, int]], rows: int = 3) -> tuple[Tensor, ...]:
    (a, c), (b, d) = shapes
    return draw((rows, c * d), 1), draw((a * b, c * d), 2), draw((a * b,), 3), draw((a, c), 4), draw((b, d), 5)


def conv_operands(shapes: tuple[tuple[int, int], tuple[int, int]], kernel: int, picture: tuple[int, int]) -> tuple[Tensor, ...]:
    (a, c), (b, d) = shapes
    size = (kernel, kernel)
    x, weight = draw((2, c * d, *picture), 1), draw((a * b, c * d, *size), 2)
    return x, weight, draw((a * b,), 3), draw((a, c), 4), draw((b, d, *size), 5)


def test_the_examples_take_both_orders() -> None:
    assert [w1_goes_first(w1, w2) for w1, w2 in MATRICES] == [True, False, True]
    assert not w1_goes_first((2, 2), (4, 4, 3, 3))


@given(*[st.integers(1, 12)] * 4, st.sampled_from([1, 3]))
def test_costs_are_the_multiplications_of_the_two_orders(a: int, b: int, c: int, d: int, kernel: int) -> None:
    whole = a * b * c * d * kernel**2
    w1_first, w2_first = order_costs((a, c), (b, d, kernel, kernel))
    assert w1_first * whole == pytest.approx(a * c * d + a * b * d * kernel**2)
    assert w2_first * whole == pytest.approx(c * b * d * kernel**2 + a * c * b)


@pytest.mark.parametrize("shapes", MATRICES)
@pytest.mark.parametrize("biased", [True, False])
def test_linear_is_the_product_with_the_explicit_weight(shapes: tuple, biased: bool) -> None:
    x, weight, bias, w1, w2 = linear_operands(shapes)
    bias = bias if biased else None
    expected = F.linear(x, weight + torch.kron(w1, w2), bias)
    torch.testing.assert_close(KroneckerLinear.apply(x, weight, bias, w1, w2), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shapes", MATRICES)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_convolution_is_that_with_the_explicit_weight(shapes: tuple, window: tuple) -> None:
    kernel, stride, padding, picture = window
    x, weight, bias, w1, w2 = conv_operands(shapes, kernel, picture)
    expected = F.conv2d(x, weight + weight_change(w1, w2), bias, stride, padding)
    found = KroneckerConv2d.apply(x, weight, bias, w1, w2, (stride, stride), (padding, padding))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    nhwc = x.contiguous(memory_format=torch.channels_last), weight.contiguous(memory_format=torch.channels_last)
    found = KroneckerConv2d.apply(*nhwc, bias, w1, w2, (stride, stride), (padding, padding))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shapes", MATRICES)
def test_linear_gradients_are_those_of_finite_differences(shapes: tuple) -> None:
    x, weight, bias, w1, w2 = linear_operands(shapes)
    w1.requires_grad_(), w2.requires_grad_()
    assert gradcheck(KroneckerLinear.apply, (x.requires_grad_(), weight, bias, w1, w2))
    assert gradcheck(KroneckerLinear.apply, (x.detach(), weight, None, w1, w2))


@pytest.mark.parametrize("shapes", MATRICES)
@pytest.mark.parametrize("window", WINDOWS[1:3], ids=str)
def test_convolution_gradients_are_those_of_finite_differences(shapes: tuple, window: tuple) -> None:
    kernel, stride, padding, picture = window
    x, weight, bias, w1, w2 = conv_operands(shapes, kernel, picture)
    w1.requires_grad_(), w2.requires_grad_()
    places = ((stride, stride), (padding, padding))
    assert gradcheck(KroneckerConv2d.apply, (x.requires_grad_(), weight, bias, w1, w2, *places))
    assert gradcheck(KroneckerConv2d.apply, (x.detach(), weight, None, w1, w2, *places))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shapes", MATRICES[:2])
def test_a_change_below_the_weights_last_digit_moves_the_output(shapes: tuple, dtype: torch.dtype) -> None:
    """Inputs whose product with W is exactly 0 leave the change's product alone."""
    _, _, _, w1, w2 = (operand.float() for operand in linear_operands(shapes))
    w2 *= torch.finfo(dtype).eps / 100
    columns, rows = w1.shape[1] * w2.shape[1], w1.shape[0] * w2.shape[0]
    x = draw((6, columns), 9).sign()
    x[:, 0] -= x.sum(1)
    weight = torch.ones(rows, columns, dtype=dtype)
    change = torch.kron(w1, w2)
    assert torch.equal(weight + change.to(dtype), weight)
    found = KroneckerLinear.apply(x.to(dtype), weight, None, w1, w2)
    expected = x @ change.double().t()
    assert (found - expected).norm() < 0.01 * expected.norm()
    picture = KroneckerConv2d.apply(
        x.to(dtype)[:, :, None, None], weight[:, :, None, None], None, w1, w2[:, :, None, None], (1, 1), (0, 0)
    )
    assert (picture.flatten(1) - expected).norm() < 0.01 * expected.norm()


def test_the_sum_of_product_and_change_is_rounded_once() -> None:
    """In bfloat16: half of the sum's last digit, and the roundings of the change's own operands, steps and result."""
    (x, weight, _, w1, w2) = (operand.bfloat16() for operand in linear_operands(((4, 4), (16, 16)), rows=50))
    w2 = w2 / 64
    product, change = (x.double() @ part.double().t() for part in (weight, torch.kron(w1.double(), w2.double())))
    eps = torch.finfo(torch.bfloat16).eps
    found = KroneckerLinear.apply(x, weight, None, w1.float(), w2.float())
    sizes = x.double().abs() @ torch.kron(w1.double(), w2.double()).abs().t()
    allowed = (product + change).abs() * eps / 2 + sizes * eps * 1.5
    assert bool(((found.double() - (product + change)).abs() <= allowed).all())
    twice = (product.bfloat16() + change.bfloat16()).double()
    assert (found - (product + change)).square().mean() < 0.8 * (twice - (product + change)).square().mean()


def test_only_the_input_is_kept_for_the_backward_pass() -> None:
    x, weight, bias, w1, w2 = linear_operands(MATRICES[0])
    w1.requires_grad_(), w2.requires_grad_()
    kept: list[int] = []
    with saved_tensors_hooks(lambda tensor: kept.append(tensor.data_ptr()) or tensor, lambda tensor: tensor):
        KroneckerLinear.apply(x, weight, bias, w1, w2)
    assert set(kept) == {tensor.data_ptr() for tensor in (x, weight, w1, w2)}
    x, weight, bias, w1, w2 = conv_operands(MATRICES[1], 3, (4, 4))
    w1.requires_grad_(), w2.requires_grad_()
    kept.clear()
    with saved_tensors_hooks(lambda tensor: kept.append(tensor.data_ptr()) or tensor, lambda tensor: tensor):
        KroneckerConv2d.apply(x, weight, bias, w1, w2, (1, 1), (1, 1))
    assert set(kept) == {tensor.data_ptr() for tensor in (x, weight, w1, w2)}
