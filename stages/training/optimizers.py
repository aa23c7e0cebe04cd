"""The optimizers by name, over a flat buffer of which each process updates the part it owns.

Weights and state have the same bits however the buffer is cut into owned parts, and on every CPU (float32 square roots are
exact, powers need no libm). torch's and bitsandbytes' own classes would keep one state a tensor and know no parts.
"""

from typing import Protocol

from repro.params import Train

import torch

from training.adafactor import Adafactor
from training.adamw import AdamW, AdamW8bit
from training.flat import FlatWeights
from training.lion import Lion, Lion8bit


class Optimizer(Protocol):
    """Updates a process's part of the flat buffer in place.

    Attributes:
        replicated: every process holds the whole state and takes the whole gradient, whatever it owns.
        state: this process's part of all that continuation needs; every process has every name, some perhaps empty.
        places: {name: (first number, numbers of the whole run's tensor)} of each part.
    """

    replicated: bool
    state: dict[str, torch.Tensor]
    places: dict[str, tuple[int, int]]

    def step(self, gradient: torch.Tensor, rates: dict[str, float], update: int) -> None:
        """Apply a clipped gradient, float32 of the owned numbers, at the rate of each group.

        `update` counts the updates applied before this one.
        """


def make_optimizer(flat: FlatWeights, owned: range, settings: Train) -> Optimizer:
    """The optimizer `settings.optimizer` of the numbers `owned` of the buffer; both ends are multiples of 256.

    Adafactor takes the whole buffer whatever is owned: see `replicated`.

    Raises:
        StageError: the installed bitsandbytes has the wrong code map.
    """
    if settings.optimizer == "adafactor":
        return Adafactor(flat, settings)
    sliced = {"lion8bit": Lion8bit, "lion": Lion, "adamw8bit": AdamW8bit, "adamw": AdamW}
    return sliced[settings.optimizer](flat, owned, settings)
