"""Lion8bit and AdamW over a flat buffer, the same bits on every CPU and however the run was cut.

bitsandbytes' own CPU kernel for Lion8bit turns a zero momentum into 2e-5 of its block's maximum, so
weights without gradient drift; its CUDA kernel does not. The update here is the CUDA rule (0.44.0 and
later: blocks of 256, decoupled decay) with exact nearest codes; the code map is bitsandbytes'.
"""

from typing import Protocol

from repro.params import Train

import torch

from training.flat import BLOCK, FlatWeights, Segment


class Optimizer(Protocol):
    """Updates a flat buffer in place; `state` holds all that continuation needs."""

    state: dict[str, torch.Tensor]

    def step(self, gradient: torch.Tensor, rates: dict[str, float]) -> None: ...


def signed_code_map() -> torch.Tensor:
    """bitsandbytes' signed dynamic 8-bit code, float32 [256], rising; code 127 is exactly 0."""
    from bitsandbytes.functional import create_dynamic_map

    return create_dynamic_map(signed=True)


class BlockQuantizer:
    """float32 blocks <-> (uint8 codes, float32 maximum of each block)."""

    def __init__(self) -> None:
        self.code = signed_code_map()
        self.borders = (self.code[1:] + self.code[:-1]) / 2

    def dequantise(self, codes: torch.Tensor, maxima: torch.Tensor) -> torch.Tensor:
        """codes uint8 [n], maxima float32 [n / 256] -> float32 [n]."""
        return (self.code[codes.int()].view(-1, BLOCK) * maxima.unsqueeze(1)).flatten()

    def quantise(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Nearest code of each value over its block's maximum; a value never changes its sign."""
        blocks = values.view(-1, BLOCK)
        maxima = blocks.abs().amax(dim=1)
        ratios = (blocks / torch.where(maxima > 0, maxima, torch.ones_like(maxima)).unsqueeze(1)).flatten()
        codes = torch.bucketize(ratios, self.borders)
        nearest = self.code[codes]
        codes -= ((nearest > 0) & (ratios < 0)).long()
        codes += ((nearest < 0) & (ratios > 0)).long()
        return codes.to(torch.uint8), maxima


class Lion8bit:
    """Lion (Chen et al. 2023) with 8-bit momentum; weights below 4096 numbers keep float32 momentum."""

    def __init__(self, flat: FlatWeights, settings: Train):
        self.flat, self.settings = flat, settings
        self.quantizer = BlockQuantizer()
        zero_code = int((self.quantizer.code == 0).nonzero())
        self.state: dict[str, torch.Tensor] = {}
        for i, segment in enumerate(flat.segments):
            size = segment.stop - segment.start
            if segment.quantised:
                self.state[f"codes.{i}"] = torch.full((size,), zero_code, dtype=torch.uint8)
                self.state[f"maxima.{i}"] = torch.zeros(size // BLOCK)
            else:
                self.state[f"momentum.{i}"] = torch.zeros(size)

    def _momentum(self, i: int, segment: Segment) -> torch.Tensor:
        if segment.quantised:
            return self.quantizer.dequantise(self.state[f"codes.{i}"], self.state[f"maxima.{i}"])
        return self.state[f"momentum.{i}"]

    @torch.no_grad()
    def step(self, gradient: torch.Tensor, rates: dict[str, float]) -> None:
        """p *= 1 - lr * decay; p -= lr * sign(b1 m + (1 - b1) g); m = b2 m + (1 - b2) g."""
        beta1, beta2 = self.settings.betas
        for i, segment in enumerate(self.flat.segments):
            lr = rates[segment.group]
            weights, g = self.flat.weights[segment.start : segment.stop], gradient[segment.start : segment.stop]
            momentum = self._momentum(i, segment)
            direction = (momentum * beta1).add_(g * (1 - beta1)).sign_()
            weights.mul_(1 - lr * self.settings.weight_decay).sub_(direction.mul_(lr))
            momentum = (momentum * beta2).add_(g * (1 - beta2))
            if segment.quantised:
                self.state[f"codes.{i}"], self.state[f"maxima.{i}"] = self.quantizer.quantise(momentum)
            else:
                self.state[f"momentum.{i}"] = momentum


class AdamW:
    """torch's fused AdamW (Loshchilov & Hutter 2019): its kernel takes exact square roots on every CPU,
    which torch.sqrt and the unfused optimizer do not."""

    def __init__(self, flat: FlatWeights, settings: Train):
        self.segments = flat.segments
        self.parts = [torch.nn.Parameter(flat.weights[s.start : s.stop]) for s in flat.segments]
        self.adamw = torch.optim.AdamW(
            [{"params": [part]} for part in self.parts],
            lr=0.0, betas=tuple(settings.betas), eps=1e-8, weight_decay=settings.weight_decay, fused=True,
        )  # fmt: skip
        self.state: dict[str, torch.Tensor] = {}
        for i, part in enumerate(self.parts):
            moments = {"step": torch.zeros(()), "exp_avg": torch.zeros_like(part), "exp_avg_sq": torch.zeros_like(part)}
            self.adamw.state[part] = moments
            self.state.update({f"{name}.{i}": tensor.detach() for name, tensor in moments.items()})

    def step(self, gradient: torch.Tensor, rates: dict[str, float]) -> None:
        for part, segment, options in zip(self.parts, self.segments, self.adamw.param_groups, strict=True):
            part.grad = gradient[segment.start : segment.stop]
            options["lr"] = rates[segment.group]
        self.adamw.step()


def make_optimizer(flat: FlatWeights, settings: Train) -> Optimizer:
    return {"lion8bit": Lion8bit, "adamw": AdamW}[settings.optimizer](flat, settings)
