"""Linear and Conv2d layers with a LoKr: the frozen layer, and w1 and w2 whose Kronecker product changes its weight.

Full matrices, scale 1: the weight [a*b, c*d, (k, k)] changes by kron(w1 [a, c], w2 [b, d, (k, k)]), as in lycoris-lora
4.1.3 with `full_matrix` (`lycoris/modules/lokr.py`). Two exact forms, chosen by the recipe's precision and the shapes:

  folded     the changed weight W + kron(w1, w2) is computed once after each update, and its gradient is gathered over
             the micro-batches and taken apart into those of w1 and w2 once: a step costs what training the weight costs
  kronecker  the change is applied to the activations (training/kronecker.py)

lycoris-lora multiplies with the frozen weight and with the rebuilt change at every call: twice the forward's work.
"""

import math

from repro.params import Precision

import torch
import torch.nn.functional as F

from training.kronecker import KroneckerConv2d, KroneckerLinear, order_costs

Shape = tuple[int, ...]
# What it costs to move a number of the input or output through the Kronecker form, in multiplications: on one CPU core,
# layers of 64 to 5120 and images of 16x16, linear and convolution alike, take the time that this gives.
TRAFFIC = 80


def factorization(dimension: int, factor: int) -> tuple[int, int]:
    """`dimension` as a product (small, large), as lycoris-lora's function of this name: of `factor` and the rest where it
    divides, else of the largest divisor that is neither above `factor` nor above the square root."""
    if dimension % factor == 0:
        small, large = sorted((factor, dimension // factor))
        return small, large
    small = max(n for n in range(1, min(factor, math.isqrt(dimension)) + 1) if dimension % n == 0)
    return small, dimension // small


def lokr_shapes(weight: Shape, factor: int) -> tuple[Shape, Shape]:
    """Shapes of w1 [a, c] and w2 [b, d, (k, k)] for a weight [out, in, (k, k)]."""
    rows, columns, *kernel = weight
    (a, b), (c, d) = factorization(rows, factor), factorization(columns, factor)
    return (a, c), (b, d, *kernel)


def is_folded(w1: Shape, w2: Shape, precision: Precision) -> bool:
    """Whether a layer of these shapes is computed in the folded form.

    In units of the forward product, of which a frozen weight costs two (output and input gradient), folded costs three,
    the Kronecker form two, three times the delta's share, and the traffic of its products. Below float32 a folded weight
    would lose what is smaller than its last digit, so it is not folded there.
    """
    rows, columns = w1[0] * w2[0], w1[1] * w2[1]
    kronecker = 2 + 3 * min(order_costs(w1, w2)) + TRAFFIC * (1 / rows + 1 / columns)
    return precision == "fp32" and kronecker >= 3


def starting_w1(shape: Shape, seed: int) -> torch.Tensor:
    """float32, He et al.'s uniform draw as lycoris-lora makes it, from a generator of its own."""
    draw = torch.Generator().manual_seed(seed)
    return torch.nn.init.kaiming_uniform_(torch.empty(shape), a=math.sqrt(5), generator=draw)


class LokrLayer(torch.nn.Module):
    """A frozen layer's weight and bias, float32 w1 and w2 (0 at the start), and in folded form the changed weight.

    Args:
        base: taken over as it is, type and device included.
        w1_seed: of w1's draw.
    """

    def __init__(self, base: torch.nn.Linear | torch.nn.Conv2d, factor: int, precision: Precision, w1_seed: int):
        super().__init__()
        self.weight, self.bias = base.weight, base.bias
        w1_shape, w2_shape = lokr_shapes(tuple(base.weight.shape), factor)
        device = base.weight.device
        self.w1 = torch.nn.Parameter(starting_w1(w1_shape, w1_seed).to(device))
        self.w2 = torch.nn.Parameter(torch.zeros(w2_shape, device=device))
        folded = is_folded(w1_shape, w2_shape, precision)
        self.folded = torch.nn.Parameter(base.weight.detach().clone()) if folded else None

    @torch.no_grad()
    def fold(self) -> None:
        """Bring the changed weight up to date: each number's product is rounded once, and its sum with W once."""
        (a, c), (b, d, *kernel) = self.w1.shape, self.w2.shape
        w1, w2 = self.w1.view(a, 1, c, 1, *[1] * len(kernel)), self.w2.view(1, b, 1, d, *kernel)
        torch.mul(w1, w2, out=self._in_blocks(self.folded)).add_(self._in_blocks(self.weight))

    @torch.no_grad()
    def unfold_gradient(self) -> None:
        """Add to w1's and w2's gradients what the changed weight's has gathered, and clear that."""
        if self.folded.grad is None:
            return
        blocks = self._in_blocks(self.folded.grad).transpose(1, 2)  # [a, c, b, d, ...]
        matrix = blocks.reshape(self.w1.numel(), self.w2.numel())
        self.w1.grad.view(-1).addmv_(matrix, self.w2.view(-1))
        self.w2.grad.view(-1).addmv_(matrix.t(), self.w1.view(-1))
        self.folded.grad = None

    def _in_blocks(self, weight: torch.Tensor) -> torch.Tensor:
        """[a*b, c*d, ...] -> [a, b, c, d, ...]."""
        (a, c), (b, d) = self.w1.shape, self.w2.shape[:2]
        return weight.view(a, b, c, d, *weight.shape[2:])

    def _operands(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Input, frozen weight and bias in the type that products are computed in: autocast's, else the input's."""
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        return x.to(dtype), self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype)


class LokrLinear(LokrLayer):
    """A Linear with a LoKr: [..., in] -> [..., out]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.folded is not None:
            return F.linear(x, self.folded, self.bias)
        x, weight, bias = self._operands(x)
        y = KroneckerLinear.apply(x.reshape(-1, x.shape[-1]).contiguous(), weight, bias, self.w1, self.w2)
        return y.view(*x.shape[:-1], y.shape[-1])


class LokrConv2d(LokrLayer):
    """An ungrouped Conv2d with zero padding and a LoKr: [n, in, h, w] -> [n, out, h', w']."""

    def __init__(self, base: torch.nn.Conv2d, factor: int, precision: Precision, w1_seed: int):
        super().__init__(base, factor, precision, w1_seed)
        self.stride, self.padding = base.stride, base.padding

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.folded is not None:
            return F.conv2d(x, self.folded, self.bias, self.stride, self.padding)
        x, weight, bias = self._operands(x)
        return KroneckerConv2d.apply(x, weight, bias, self.w1, self.w2, self.stride, self.padding)
