"""AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) with its moments in float32 or in 8 bits."""

import math

from repro.params import Train

import torch

from training.block_quantizer import BlockQuantizer
from training.flat import FlatWeights, Segment
from training.moments import Moments
from training.owned import Owned
from training.square_root import square_root

EPS = 1e-8


def whole_power(base: float, exponent: int) -> float:
    """base ** exponent by squaring: multiplications only, since libm's pow may differ in the last bit between machines."""
    power = 1.0
    while exponent:
        if exponent & 1:
            power *= base
        base *= base
        exponent >>= 1
    return power


def end_of_weights(flat: FlatWeights, segment: Segment) -> int:
    """Where the weights of a segment end; in a quantised one each is padded by itself, and its padding counts."""
    if segment.quantised:
        return segment.stop
    ends = (start + shape.numel() for start, shape in flat.places.values())
    return max(end for end in ends if segment.start < end <= segment.stop)


class AdamW:
    """torch's fused AdamW: its kernel takes exact square roots on every CPU, which the unfused optimizer does not.

    On a CPU the kernel works on eight numbers at a time and rounds the one to seven that are left over in another way. So
    its calls end where weights end, not where padding does; since parts are cut at multiples of 8 from a segment's start,
    the numbers left over are the same ones whoever owns them.

    Args:
        owned: the numbers of the buffer that this process updates; both ends are multiples of 256.
    """

    replicated = False

    def __init__(self, flat: FlatWeights, owned: range, settings: Train):
        self.owned = Owned(flat, owned)
        ends = [end_of_weights(flat, share.segment) for share in self.owned.shares]
        self.parts = [
            torch.nn.Parameter(self.owned.weights(share)[: max(end - share.start, 0)])
            for share, end in zip(self.owned.shares, ends, strict=True)
        ]
        self.adamw = torch.optim.AdamW(
            [{"params": [part]} for part in self.parts],
            lr=0.0, betas=tuple(settings.betas), eps=EPS, weight_decay=settings.weight_decay, fused=True,
        )  # fmt: skip
        first, second = Moments("exp_avg", self.owned, None), Moments("exp_avg_sq", self.owned, None)
        self.state, self.places = first.state | second.state, first.places | second.places
        for part, mean, square in zip(self.parts, first.of_share, second.of_share, strict=True):
            self.adamw.state[part] = {
                "step": torch.zeros((), device=part.device),
                "exp_avg": mean.values[: len(part)],
                "exp_avg_sq": square.values[: len(part)],
            }

    def step(self, gradient: torch.Tensor, rates: dict[str, float], update: int) -> None:
        """p *= 1 - lr * decay; m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; p -= lr * m' / (sqrt(v') + eps), where
        m' = m / (1 - b1^t), v' = v / (1 - b2^t) and t = update + 1."""
        for part, share, options in zip(self.parts, self.owned.shares, self.adamw.param_groups, strict=True):
            part.grad = self.owned.gradient(share, gradient)[: len(part)]
            self.adamw.state[part]["step"].fill_(update)
            options["lr"] = rates[share.segment.group]
        self.adamw.step()


class AdamW8bit:
    """bitsandbytes' AdamW8bit, the rule of its CUDA kernels (0.44.0 and later: blocks of 256), codes exactly the nearest.

    The first moment has the signed code map, the second the unsigned one; weights below 4096 numbers keep float32
    moments. Decay follows the step, as in those kernels (their CPU kernel lets it go before).
    """

    replicated = False

    def __init__(self, flat: FlatWeights, owned: range, settings: Train):
        self.settings = settings
        self.owned = Owned(flat, owned)
        device = flat.weights.device
        self.first = Moments("exp_avg", self.owned, BlockQuantizer(signed=True, device=device))
        self.second = Moments("exp_avg_sq", self.owned, BlockQuantizer(signed=False, device=device))
        self.state, self.places = self.first.state | self.second.state, self.first.places | self.second.places

    @torch.no_grad()
    def step(self, gradient: torch.Tensor, rates: dict[str, float], update: int) -> None:
        """m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; p -= lr * c2 / c1 * m / (sqrt(v) + c2 * eps);
        p *= 1 - lr * decay, where c1 = 1 - b1^t, c2 = sqrt(1 - b2^t) and t = update + 1."""
        beta1, beta2 = self.settings.betas
        correction1 = 1 - whole_power(beta1, update + 1)
        correction2 = math.sqrt(1 - whole_power(beta2, update + 1))
        for piece in self.owned.pieces(gradient):
            lr = rates[piece.group]
            first, second = self.first.of_share[piece.share], self.second.of_share[piece.share]
            mean = first.read(piece.place).mul_(beta1).add_(piece.gradient * (1 - beta1))
            square = second.read(piece.place).mul_(beta2).add_((piece.gradient * (1 - beta2)).mul_(piece.gradient))
            change = mean / square_root(square).add_(correction2 * EPS)
            piece.weights.sub_(change.mul_(lr * correction2 / correction1)).mul_(1 - lr * self.settings.weight_decay)
            first.write(piece.place, mean)
            second.write(piece.place, square)
