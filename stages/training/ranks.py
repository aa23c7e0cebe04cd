"""The processes of one training run: this one, those it starts, or those of `accelerate launch`."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from repro.errors import StageError

import torch
import torch.distributed as dist

from training.gradient_tree import sum_over_processes

PATIENCE = timedelta(minutes=30)


@dataclass(frozen=True)
class Ranks:
    """This process among the data-parallel ones."""

    rank: int
    world_size: int

    def _exchange(self, operation: Callable[[], torch.Tensor]) -> torch.Tensor:
        try:
            return operation()
        except (RuntimeError, ValueError) as error:
            raise StageError(
                f"rank {self.rank} lost another rank ({str(error).splitlines()[0]}); the same command goes on from the last"
                " saved state"
            ) from error

    def sum_gradient(self, gradient: torch.Tensor) -> torch.Tensor:
        """The upper levels of the gradient tree."""
        return self._exchange(lambda: sum_over_processes(gradient, self.rank, self.world_size))

    def combine(self, values: torch.Tensor) -> torch.Tensor:
        """Sum where every place is non-zero on one rank only, so that no order reaches the bits."""
        if self.world_size > 1:
            self._exchange(lambda: dist.all_reduce(values) or values)
        return values


def launched_ranks() -> Ranks | None:
    """The ranks of `accelerate launch` or torchrun, joined, or None outside of one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    from accelerate import PartialState

    state = PartialState(cpu=True, timeout=PATIENCE)
    return Ranks(state.process_index, state.num_processes)


def join_ranks(rank: int, world_size: int, meeting_point: Path) -> Ranks:
    """Join the ranks of this machine through a file; gloo over the loopback interface."""
    if world_size > 1:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        meeting = f"file://{meeting_point.absolute()}"
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world_size, timeout=PATIENCE)
    return Ranks(rank, world_size)
