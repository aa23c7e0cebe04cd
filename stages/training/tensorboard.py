"""A running training in TensorBoard. Its files hold times and host names: they are for watching, and no output."""

from pathlib import Path
from typing import TYPE_CHECKING

from training.resume import Row

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class LossCurves:
    """Writes loss, rates and gradient norm of every update to `folder`, or nowhere when it is None.

    A continued run writes on where its saved state was: what an earlier process wrote beyond is taken back.
    """

    def __init__(self, folder: Path | None, updates_done: int):
        self._writer = None if folder is None else _writer(folder, updates_done)

    def add(self, row: Row) -> None:
        if self._writer is None:
            return
        values = {"loss": row.loss, "rate/unet": row.lr, "rate/text": row.te_lr, "gradient norm": row.grad_norm}
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(name, value, row.update)

    def flush(self) -> None:
        """Write out what is held back; before a state is saved, or a kill would lose updates that it has."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _writer(folder: Path, updates_done: int) -> "SummaryWriter":
    from torch.utils.tensorboard import SummaryWriter  # late: only one rank needs it

    return SummaryWriter(str(folder), purge_step=updates_done)
