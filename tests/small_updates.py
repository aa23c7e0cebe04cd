"""Small updates of a flat buffer: the golden answers' weights and gradients, and whole runs of an optimizer over them."""

from collections.abc import Callable, Iterable
from typing import Any

import repro  # noqa: F401 - fixes the numeric environment
from repro.params import Train

import torch
from tiny_training import sample_values

from training.flat import FlatWeights
from training.optimizers import Optimizer, make_optimizer

OPTIMIZERS = ("lion8bit", "lion", "adamw8bit", "adamw", "adafactor")
RATE = 2e-5
BETAS = (0.9, 0.95)
DECAY = 0.1


def train_settings(optimizer: str = "lion8bit", **changes: Any) -> Train:
    """The sample recipe's settings of training with the golden answers' betas and decay."""
    values = {"optimizer": optimizer, "betas": list(BETAS), "weight_decay": DECAY} | changes
    return Train.model_validate(sample_values()["train"] | values)


def golden_start(n: int) -> torch.Tensor:
    """Weights before the first update, float32 [n]."""
    return (0.02 * torch.sin(0.37 * torch.arange(n, dtype=torch.float64) + 0.1)).float()


def golden_gradient(n: int, update: int) -> torch.Tensor:
    """The gradient of update 0, 1, ..., float32 [n]."""
    i = torch.arange(n, dtype=torch.float64)
    return (1e-3 * torch.cos(0.11 * i + update) * (1 + i % 7)).float()


def flat_weights(shapes: Iterable[tuple[int, ...]], groups: Iterable[str] = ("unet",), virtual_ranks: int = 1) -> FlatWeights:
    """A buffer with weights of these shapes in each group, called <group>.0, <group>.1, ...; of the golden start."""
    shapes = list(shapes)

    def group(name: str) -> list[tuple[str, torch.nn.Parameter]]:
        sizes = [torch.Size(shape) for shape in shapes]
        return [(f"{name}.{i}", torch.nn.Parameter(golden_start(size.numel()).view(size))) for i, size in enumerate(sizes)]

    return FlatWeights({name: group(name) for name in groups}, virtual_ranks)


def flat_gradient(flat: FlatWeights, update: int, of: Callable[[int, int], torch.Tensor] = golden_gradient) -> torch.Tensor:
    """A gradient of the whole buffer, zero where no weight is; `of(numbers, update)` gives each weight's."""
    gradient = torch.zeros_like(flat.weights)
    for number, view in enumerate(flat.views(gradient).values()):
        view.copy_(of(view.numel(), update + number).view(view.shape))
    return gradient


def optimizer_of(flat: FlatWeights, name: str, **changes: Any) -> Optimizer:
    """An optimizer that owns the whole buffer."""
    return make_optimizer(flat, range(len(flat.weights)), train_settings(name, **changes))


def updated(
    n: int, updates: int, name: str, of: Callable[[int, int], torch.Tensor] = golden_gradient
) -> tuple[torch.Tensor, Optimizer]:
    """One weight of n numbers after some updates (float32 [n], padding left out), and the optimizer."""
    flat = flat_weights([(n,)])
    optimizer = optimizer_of(flat, name)
    for update in range(updates):
        optimizer.step(flat_gradient(flat, update, of), {"unet": RATE}, update)
    return flat.weights[:n], optimizer
