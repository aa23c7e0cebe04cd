"""The part of the flat buffer that a process updates: a share of each segment, walked in pieces.

An update works in pieces of a fixed number of numbers, so that its temporaries stay small (in a CPU's cache) however many
numbers are trained. Every number is updated by itself, or with its block of 256, so neither pieces nor shares change a bit.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

from training.flat import FlatWeights, Segment

# A GPU wants few large kernels; a CPU wants its second-level cache.
PIECE = {"cpu": 1 << 16, "cuda": 1 << 22}


@dataclass(frozen=True)
class Share:
    """The numbers [start, stop) of the buffer, those of a segment that a process owns; may be empty."""

    segment: Segment
    start: int
    stop: int

    @property
    def first(self) -> int:
        """Where the share begins within its segment."""
        return self.start - self.segment.start

    @property
    def total(self) -> int:
        """Numbers in the whole segment."""
        return self.segment.stop - self.segment.start


class Piece(NamedTuple):
    """A part of a share: its share's number, its group, its place in the share, its weights (a view) and gradient."""

    share: int
    group: str
    place: slice
    weights: torch.Tensor
    gradient: torch.Tensor


class Owned:
    """A process's share of every segment.

    Args:
        owned: the numbers of the buffer to update; both ends are multiples of 256.
    """

    def __init__(self, flat: FlatWeights, owned: range):
        self.flat, self.first = flat, owned.start
        self.device = flat.weights.device
        self.shares = [
            Share(segment, *(min(max(end, segment.start), segment.stop) for end in (owned.start, owned.stop)))
            for segment in flat.segments
        ]

    def weights(self, share: Share) -> torch.Tensor:
        return self.flat.weights[share.start : share.stop]

    def gradient(self, share: Share, gradient: torch.Tensor) -> torch.Tensor:
        """A share's part of the gradient of the owned numbers."""
        return gradient[share.start - self.first : share.stop - self.first]

    def pieces(self, gradient: torch.Tensor) -> Iterator[Piece]:
        """All owned numbers of segments, with the gradient (float32 [owned]) of each."""
        size = PIECE[self.device.type]
        for number, share in enumerate(self.shares):
            weights, part = self.weights(share), self.gradient(share, gradient)
            for start in range(0, len(weights), size):
                place = slice(start, min(start + size, len(weights)))
                yield Piece(number, share.segment.group, place, weights[place], part[place])
