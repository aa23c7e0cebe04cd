"""Running means that an optimizer keeps of each number, in float32 or in 8 bits."""

import torch

from training.block_quantizer import BlockQuantizer
from training.flat import BLOCK
from training.owned import Owned, Share


class Float32Moment:
    """A share's running mean in float32, from zero."""

    def __init__(self, name: str, share: Share, device: torch.device):
        self.values = torch.zeros(share.stop - share.start, device=device)
        self.state = {name: self.values}
        self.places = {name: (share.first, share.total)}

    def read(self, place: slice) -> torch.Tensor:
        """The values of a piece, float32, as a new tensor."""
        return self.values[place].clone()

    def write(self, place: slice, values: torch.Tensor) -> None:
        self.values[place] = values


class QuantisedMoment:
    """A share's running mean as 8-bit codes and a magnitude for each block of 256, from zero."""

    def __init__(self, name: str, share: Share, device: torch.device, quantizer: BlockQuantizer):
        self.quantizer = quantizer
        size = share.stop - share.start
        self.codes = torch.full((size,), quantizer.zero, dtype=torch.uint8, device=device)
        self.magnitudes = torch.zeros(size // BLOCK, device=device)
        self.state = {f"{name}.codes": self.codes, f"{name}.magnitudes": self.magnitudes}
        self.places = {
            f"{name}.codes": (share.first, share.total),
            f"{name}.magnitudes": (share.first // BLOCK, share.total // BLOCK),
        }

    def read(self, place: slice) -> torch.Tensor:
        """The values of a piece, float32, as a new tensor."""
        return self.quantizer.dequantise(self.codes[place], self.magnitudes[_blocks(place)])

    def write(self, place: slice, values: torch.Tensor) -> None:
        self.codes[place], self.magnitudes[_blocks(place)] = self.quantizer.quantise(values)


Moment = Float32Moment | QuantisedMoment


class Moments:
    """The running mean `name` of all owned numbers: one moment for each share, `state` and `places` of all of them.

    Args:
        quantizer: used for the segments that are quantised; None keeps all in float32.
    """

    def __init__(self, name: str, owned: Owned, quantizer: BlockQuantizer | None):
        self.state: dict[str, torch.Tensor] = {}
        self.places: dict[str, tuple[int, int]] = {}
        self.of_share: list[Moment] = []
        for number, share in enumerate(owned.shares):
            if quantizer and share.segment.quantised:
                moment: Moment = QuantisedMoment(f"{name}.{number}", share, owned.device, quantizer)
            else:
                moment = Float32Moment(f"{name}.{number}", share, owned.device)
            self.of_share.append(moment)
            self.state |= moment.state
            self.places |= moment.places


def _blocks(place: slice) -> slice:
    return slice(place.start // BLOCK, place.stop // BLOCK)
