"""Loss scaling for fp16: gradients are computed of a loss so many times larger that the small ones do not vanish.

The rule and its constants are torch.amp.GradScaler's; the scale is a power of two, so that scaling and unscaling are
exact. An update whose gradient overflows is skipped and the scale halved; after 2000 good updates in a row it doubles.
The gradient that decides is the sum over all processes, so all decide alike.
"""

from dataclasses import dataclass

from repro.errors import StageError

FIRST, SMALLEST = 2.0**16, 1.0
GROWTH_INTERVAL = 2000


@dataclass
class LossScale:
    """`value` multiplies the loss; `good` updates have followed one another without overflow."""

    value: float = FIRST
    good: int = 0

    def succeed(self) -> None:
        self.good += 1
        if self.good == GROWTH_INTERVAL:
            self.value, self.good = self.value * 2, 0

    def overflow(self, update: int) -> None:
        """Halve the scale.

        Raises:
            StageError: the gradient overflows at every scale, so the fault is elsewhere.
        """
        self.value, self.good = self.value / 2, 0
        if self.value < SMALLEST:
            raise StageError(
                f"update {update}: the fp16 gradient is not finite at any loss scale down to {SMALLEST:g}; lower lr or te_lr, or"
                " set train.precision to bf16 or fp32 (the last saved state is kept)"
            )
