"""Lion (Chen et al. 2023, arXiv 2302.06675) with its momentum in float32 or in 8 bits.

The rule is that of bitsandbytes' CUDA kernels (8 bits: 0.44.0 and later, blocks of 256; float32: 0.50.0 and later, where
decay no longer goes through the gradient). bitsandbytes' own CPU kernel for 8 bits turns a zero momentum into 2e-5 of its
block's largest, so weights without gradient drift; here zero stays zero, as on CUDA.
"""

from repro.params import Train

import torch

from training.block_quantizer import BlockQuantizer
from training.flat import FlatWeights
from training.moments import Moments
from training.owned import Owned


class Lion:
    """Lion with float32 momentum.

    Args:
        owned: the numbers of the buffer that this process updates; both ends are multiples of 256.
    """

    replicated = False

    def __init__(self, flat: FlatWeights, owned: range, settings: Train, quantizer: BlockQuantizer | None = None):
        self.settings = settings
        self.owned = Owned(flat, owned)
        self.momentum = Moments("momentum", self.owned, quantizer)
        self.state, self.places = self.momentum.state, self.momentum.places

    @torch.no_grad()
    def step(self, gradient: torch.Tensor, rates: dict[str, float], update: int) -> None:
        """p *= 1 - lr * decay; p -= lr * sign(b1 m + (1 - b1) g); m = b2 m + (1 - b2) g."""
        beta1, beta2 = self.settings.betas
        for piece in self.owned.pieces(gradient):
            lr, moment = rates[piece.group], self.momentum.of_share[piece.share]
            momentum = moment.read(piece.place)
            direction = (momentum * beta1).add_(piece.gradient * (1 - beta1)).sign_()
            piece.weights.mul_(1 - lr * self.settings.weight_decay).sub_(direction.mul_(lr))
            moment.write(piece.place, momentum.mul_(beta2).add_(piece.gradient * (1 - beta2)))


class Lion8bit(Lion):
    """Lion with 8-bit momentum; weights below 4096 numbers keep float32 momentum."""

    def __init__(self, flat: FlatWeights, owned: range, settings: Train):
        super().__init__(flat, owned, settings, BlockQuantizer(signed=True, device=flat.weights.device))
