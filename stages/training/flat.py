"""Trained numbers laid end to end in one float32 buffer, gradients likewise.

One buffer makes the gradient exchange one message, lets every process own an equal slice of it, and makes the saved
state a few tensors. Weights of at least 4096 numbers come first in each group and are padded to whole blocks of 256,
since the 8-bit optimizers quantise block by block and tensor by tensor (bitsandbytes' rule); smaller ones follow and
keep a float32 state.
"""

from dataclasses import dataclass

import torch

BLOCK = 256
SMALLEST_QUANTISED = 4096
# Slices of the buffer begin and end at multiples of it, and gradient norms are added chunk by chunk.
CHUNK = 1 << 16


@dataclass(frozen=True)
class Segment:
    """A stretch of the buffer with one learning rate: [start, stop), multiples of 256, quantised or float32 state."""

    group: str
    quantised: bool
    start: int
    stop: int


def _whole(count: int, unit: int) -> int:
    """`count` rounded up to a multiple of `unit`."""
    return -(-count // unit) * unit


class FlatWeights:
    """Moves the parameters of each group into one buffer; the parameters become views of it.

    Args:
        groups: {group name: [(parameter name, parameter), ...]}, float32.
        virtual_ranks: the buffer can be cut into so many equal slices of whole chunks.
    """

    def __init__(
        self,
        groups: dict[str, list[tuple[str, torch.nn.Parameter]]],
        virtual_ranks: int = 1,
        device: torch.device | str = "cpu",
    ):
        self.places: dict[str, tuple[int, torch.Size]] = {}
        self.parameters: dict[str, torch.nn.Parameter] = {}
        self.segments: list[Segment] = []
        end = 0
        for group, parameters in groups.items():
            for quantised in (True, False):
                start = end
                for name, parameter in parameters:
                    if (parameter.numel() >= SMALLEST_QUANTISED) is not quantised:
                        continue
                    self.places[name] = (end, parameter.shape)
                    self.parameters[name] = parameter
                    end += _whole(parameter.numel(), BLOCK) if quantised else parameter.numel()
                end = _whole(end, BLOCK)
                if end > start:
                    self.segments.append(Segment(group, quantised, start, end))
        self.weights = torch.zeros(_whole(end, virtual_ranks * CHUNK), device=device)
        for name, view in self.views(self.weights).items():
            view.copy_(self.parameters[name].detach())
            self.parameters[name].data = view
            self.parameters[name].requires_grad_(True)

    def views(self, buffer: torch.Tensor) -> dict[str, torch.Tensor]:
        """Each parameter's part of a buffer, in its own shape."""
        return {name: buffer[at : at + shape.numel()].view(shape) for name, (at, shape) in self.places.items()}

    def collect_gradients(self) -> torch.Tensor:
        """A new zero buffer that the next backward passes add their gradients into, until it is released."""
        buffer = torch.zeros_like(self.weights)
        for name, view in self.views(buffer).items():
            self.parameters[name].grad = view
        return buffer

    def release_gradients(self) -> None:
        """Let go of the collected buffer, so that it lives only as long as who sums it wants."""
        for parameter in self.parameters.values():
            parameter.grad = None


def chunk_squares(gradient: torch.Tensor) -> torch.Tensor:
    """Sum of squares of each chunk of a flat gradient, float64 [chunks]; the same however the gradient is sliced."""
    return torch.stack([part.double().square().sum() for part in gradient.split(CHUNK)])


def norm_of(squares: torch.Tensor) -> float:
    """Euclidean norm from the sums of squares of all chunks, added in chunk order."""
    total = 0.0
    for square in squares.tolist():
        total += square
    return total**0.5
