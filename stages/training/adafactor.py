"""Adafactor (Shazeer & Stern 2018, arXiv 1804.04235) with given learning rates and without momentum.

The rule of transformers.optimization.Adafactor (4.57) as sd-scripts' recipes set it: scale_parameter, relative_step and
warmup_init off, beta1 none, eps (1e-30, 1e-3), clip_threshold 1, decay_rate -0.8. A weight of two or more dimensions keeps
the mean squares of its gradient's rows and columns (the last two dimensions), others that of each number.
"""

from decimal import Decimal, localcontext

from repro.params import Train

import torch

from training.flat import FlatWeights
from training.square_root import inverse_square_root, square_root_

SQUARE_EPS = 1e-30
CLIP_THRESHOLD = 1.0
DECAY_RATE = Decimal("-0.8")
DIGITS = 30


def mean_square_decay(update: int) -> float:
    """beta2 of update 0, 1, ...: 1 - t^-0.8 with t = update + 1, in decimals, since libm's pow may differ between machines."""
    with localcontext(prec=DIGITS):
        return float(1 - Decimal(update + 1) ** DECAY_RATE)


def _follow(mean: torch.Tensor, values: torch.Tensor, decay: float) -> None:
    mean.mul_(decay).add_(values.mul_(1 - decay))


class Adafactor:
    """Adafactor of every weight; each process holds all of it, since a weight's rows and columns cannot be cut at will.

    Temporaries are a few times as large as the largest weight.
    """

    replicated = True

    def __init__(self, flat: FlatWeights, settings: Train):
        self.settings, self.flat = settings, flat
        self.groups = {
            name: segment.group
            for name, (start, _) in flat.places.items()
            for segment in flat.segments
            if segment.start <= start < segment.stop
        }
        shapes = {"row": {}, "column": {}, "number": {}}
        for name, (_, shape) in flat.places.items():
            if len(shape) >= 2:
                shapes["row"][name], shapes["column"][name] = shape[:-1], shape[:-2] + shape[-1:]
            else:
                shapes["number"][name] = shape
        self.state: dict[str, torch.Tensor] = {}
        self.means: dict[str, dict[str, torch.Tensor]] = {}
        for kind, of_kind in shapes.items():
            sizes = [shape.numel() for shape in of_kind.values()]
            self.state[kind] = torch.zeros(sum(sizes), device=flat.weights.device)
            parts = self.state[kind].split(sizes)
            self.means[kind] = {name: part.view(shape) for part, (name, shape) in zip(parts, of_kind.items(), strict=True)}
        self.places = {kind: (0, len(mean)) for kind, mean in self.state.items()}

    @torch.no_grad()
    def step(self, gradient: torch.Tensor, rates: dict[str, float], update: int) -> None:
        """u = g / sqrt(mean square of g); u /= max(1, rms(u)); p *= 1 - lr * decay; p -= lr * u."""
        decay = mean_square_decay(update)
        weights, gradients = self.flat.views(self.flat.weights), self.flat.views(gradient)
        for name, group in self.groups.items():
            lr = rates[group]
            change = self._scaled(name, gradients[name], decay)
            # In float64, as the gradient's norm: a float32 sum of millions of squares loses digits.
            rms = square_root_(change.double().square_().mean())
            change.div_((rms / CLIP_THRESHOLD).clamp_(min=1.0).float()).mul_(lr)
            weights[name].mul_(1 - lr * self.settings.weight_decay).sub_(change)

    def _scaled(self, name: str, gradient: torch.Tensor, decay: float) -> torch.Tensor:
        """The gradient over the root of its mean square, after this has followed the gradient; a new tensor."""
        square = gradient.square().add_(SQUARE_EPS)
        if gradient.dim() < 2:
            number = self.means["number"][name]
            _follow(number, square, decay)
            return inverse_square_root(number).mul_(gradient)
        row, column = self.means["row"][name], self.means["column"][name]
        _follow(row, square.mean(dim=-1), decay)
        _follow(column, square.mean(dim=-2), decay)
        of_rows = inverse_square_root(row / row.mean(dim=-1, keepdim=True))
        return (of_rows.unsqueeze(-1) * inverse_square_root(column).unsqueeze(-2)).mul_(gradient)
