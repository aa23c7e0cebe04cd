"""Products of activations with W + kron(w1, w2), without ever building the sum: y = x W' + delta on the activations.

kron(w1, w2) for w1 [a, c] and w2 [b, d, (k, k)] takes c*d inputs to a*b outputs (LoKr: Yeh et al. 2023, arXiv 2309.14859).
An input of c groups of d numbers goes through w2 group by group and through w1 across the groups, in whichever order
multiplies less; the two orders are the same sum. The frozen W may be of a low precision: the change is never added to
it, so what is below half of W's last digit still moves the output.

Both functions keep the input, and no product with w1 or w2, for the backward pass: a frozen layer needs no input, so
what they keep is what a LoKr costs in memory. w1 and w2 are float32 and take the input's type within.
"""

import math
from typing import Any

import repro  # noqa: F401 - fixes the numeric environment

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Shape = tuple[int, ...]
Gradients = tuple[Tensor | None, ...]


def order_costs(w1: Shape, w2: Shape) -> tuple[float, float]:
    """Multiplications of the delta as a share of those of the whole product: w1 before w2, and w2 before w1.

    Args:
        w1: shape [a, c]. w2: shape [b, d] or [b, d, k, k].
    """
    (a, c), (b, d, *kernel) = w1, w2
    pixels = math.prod(kernel)
    return 1 / c + 1 / (b * pixels), 1 / a + 1 / (d * pixels)


def w1_goes_first(w1: Shape, w2: Shape) -> bool:
    """On a tie w2 does, which in a convolution of stride 2 leaves w1 a quarter of the pixels."""
    first, last = order_costs(w1, w2)
    return first < last


def _across_groups(w1: Tensor, groups: Tensor) -> Tensor:
    """w1 [a, c] on groups [n, c, m] -> [n, a, m]."""
    return torch.bmm(w1.expand(len(groups), *w1.shape), groups)


def _w1_gradient(outputs: Tensor, inputs: Tensor) -> Tensor:
    """float32 [a, c] from the gradient at w1's outputs [n, a, m] and its inputs [n, c, m]."""
    return torch.bmm(outputs, inputs.transpose(1, 2)).sum(0, dtype=torch.promote_types(outputs.dtype, torch.float32))


class KroneckerLinear(torch.autograd.Function):
    """x [n, c*d] -> x (W + kron(w1, w2))^T + bias, [n, a*b]; W [a*b, c*d] and bias frozen, of x's type."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, w1: Tensor, w2: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, w1, w2)
        w1, w2 = w1.to(x.dtype), w2.to(x.dtype)
        (a, c), (b, d) = w1.shape, w2.shape
        if w1_goes_first(w1.shape, w2.shape):
            delta = _across_groups(w1, x.view(-1, c, d)).view(-1, d) @ w2.t()
        else:
            delta = _across_groups(w1, (x.view(-1, d) @ w2.t()).view(-1, c, b))
        delta = delta.view(-1, a * b)
        if bias is not None:
            delta += bias
        # The delta is what the product adds to, so that their sum is rounded once.
        return delta.addmm_(x, weight.t())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        x, weight, w1_stored, w2_stored = ctx.saved_tensors
        w1, w2 = w1_stored.to(x.dtype), w2_stored.to(x.dtype)
        (a, c), (b, d) = w1.shape, w2.shape
        gradient = gradient.contiguous()
        if w1_goes_first(w1.shape, w2.shape):
            groups = x.view(-1, c, d)
            at_w2 = gradient.view(-1, b)
            at_w1 = (at_w2 @ w2).view(-1, a, d)
            grad_w1 = _w1_gradient(at_w1, groups)
            grad_w2 = at_w2.t() @ _across_groups(w1, groups).view(-1, d)
            grad_x = _across_groups(w1.t(), at_w1).view(-1, c * d) if ctx.needs_input_grad[0] else None
        else:
            at_w1 = gradient.view(-1, a, b)
            at_w2 = _across_groups(w1.t(), at_w1).view(-1, b)
            grad_w1 = _w1_gradient(at_w1, (x.view(-1, d) @ w2.t()).view(-1, c, b))
            grad_w2 = at_w2.t() @ x.view(-1, d)
            grad_x = (at_w2 @ w2).view(-1, c * d) if ctx.needs_input_grad[0] else None
        if grad_x is not None:
            grad_x.addmm_(gradient, weight)
        return grad_x, None, None, grad_w1.to(w1_stored.dtype), grad_w2.to(w2_stored.dtype)


def _convolution_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: Shape, padding: Shape, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of an ungrouped, undilated convolution's input and weight, those `wanted`."""
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, stride, padding, (1, 1), False, (0, 0), 1, (*wanted, False)
    )
    return grad_x, grad_weight


class KroneckerConv2d(torch.autograd.Function):
    """x [n, c*d, h, w] -> its convolution with W + kron(w1, w2), plus bias; W [a*b, c*d, k, k] and bias frozen."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, w1: Tensor, w2: Tensor, stride: Shape, padding: Shape
    ) -> Tensor:
        ctx.save_for_backward(x, weight, w1, w2)
        ctx.stride, ctx.padding = stride, padding
        w1, w2 = w1.to(x.dtype), w2.to(x.dtype)
        (a, c), d = w1.shape, w2.shape[1]
        y = F.conv2d(x, weight, bias, stride, padding)
        n, pixels = len(x), x.shape[2:]
        if w1_goes_first(w1.shape, w2.shape):
            mixed = _across_groups(w1, x.reshape(n, c, -1)).view(n * a, d, *pixels)
            delta = F.conv2d(mixed, w2, None, stride, padding)
        else:
            convolved = F.conv2d(x.reshape(n * c, d, *pixels), w2, None, stride, padding)
            delta = _across_groups(w1, convolved.reshape(n, c, -1))
        return y.add_(delta.reshape(y.shape))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        x, weight, w1_stored, w2_stored = ctx.saved_tensors
        w1, w2 = w1_stored.to(x.dtype), w2_stored.to(x.dtype)
        (a, c), (b, d) = w1.shape, w2.shape[:2]
        stride, padding, x_needs = ctx.stride, ctx.padding, ctx.needs_input_grad[0]
        n, pixels, out_pixels = len(x), x.shape[2:], gradient.shape[2:]
        if w1_goes_first(w1.shape, w2.shape):
            groups = x.reshape(n, c, -1)
            mixed = _across_groups(w1, groups).view(n * a, d, *pixels)
            at_w2 = gradient.reshape(n * a, b, *out_pixels)
            at_mixed, grad_w2 = _convolution_backward(at_w2, mixed, w2, stride, padding, (True, True))
            at_w1 = at_mixed.reshape(n, a, -1)
            grad_w1 = _w1_gradient(at_w1, groups)
            grad_delta = _across_groups(w1.t(), at_w1) if x_needs else None
        else:
            groups = x.reshape(n * c, d, *pixels)
            at_w1 = gradient.reshape(n, a, -1)
            convolved = F.conv2d(groups, w2, None, stride, padding).reshape(n, c, -1)
            grad_w1 = _w1_gradient(at_w1, convolved)
            at_w2 = _across_groups(w1.t(), at_w1).view(n * c, b, *out_pixels)
            grad_delta, grad_w2 = _convolution_backward(at_w2, groups, w2, stride, padding, (x_needs, True))
        grad_x = None
        if grad_delta is not None:
            grad_x, _ = _convolution_backward(gradient, x, weight, stride, padding, (True, False))
            grad_x = grad_x.add_(grad_delta.reshape(x.shape))
        return grad_x, None, None, grad_w1.to(w1_stored.dtype), grad_w2.to(w2_stored.dtype), None, None
