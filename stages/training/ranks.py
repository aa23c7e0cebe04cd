"""The processes of one training run: this one, those it starts, or those of `accelerate launch`.

Every process owns one equal slice of the flat buffer: it sums that slice's gradient, holds its optimizer state and
updates its weights, and then all exchange their slices.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal, TypeVar

from repro.errors import StageError

import torch
import torch.distributed as dist

from training.gradient_tree import tree_sum

# Rank 0 may have a terabyte of latents to hash before the others hear of it.
PATIENCE = timedelta(hours=2)
Result = TypeVar("Result")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Ranks:
    """This process among the data-parallel ones, and the device that it computes on."""

    rank: int
    world_size: int
    device: torch.device = CPU

    def _exchange(self, operation: Callable[[], Result]) -> Result:
        try:
            return operation()
        except (RuntimeError, ValueError) as error:
            raise StageError(
                f"rank {self.rank} lost another rank ({str(error).splitlines()[0]}); the same command goes on from the last"
                " saved state"
            ) from error

    def slice_of(self, numbers: int) -> range:
        """The positions of a buffer of so many numbers that this process owns."""
        share = numbers // self.world_size
        return range(self.rank * share, (self.rank + 1) * share)

    def sum_slice(self, gradient: torch.Tensor) -> torch.Tensor:
        """The upper levels of the gradient tree: the owned slice of the sum of all processes' gradients, [n / processes]."""
        if self.world_size == 1:
            return gradient
        received = torch.empty_like(gradient)
        self._exchange(lambda: dist.all_to_all_single(received, gradient))
        slices = received.view(self.world_size, -1)
        return tree_sum(self.world_size, lambda rank: slices[rank])

    def share_slices(self, buffer: torch.Tensor) -> None:
        """Fill a buffer, of which every process has computed its owned slice, with all of them."""
        if self.world_size > 1:
            owned = self.slice_of(len(buffer))
            self._exchange(lambda: dist.all_gather_single(buffer, buffer[owned.start : owned.stop].clone()))

    def combine(self, values: torch.Tensor) -> torch.Tensor:
        """Sum where every place is non-zero on one process only, so that no order reaches the bits."""
        if self.world_size > 1:
            on_device = values.to(self.device)
            self._exchange(lambda: dist.all_reduce(on_device))
            values.copy_(on_device)
        return values

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """Every process' equally many values, in rank order, on the CPU."""
        count = len(values)
        everyone = torch.zeros(count * self.world_size, dtype=values.dtype)
        everyone[self.rank * count : (self.rank + 1) * count] = values.cpu()
        return self.combine(everyone)

    def assemble(self, share: torch.Tensor, first: int, total: int) -> torch.Tensor:
        """The whole tensor [total], on the CPU, of which every process holds the stretch that begins at `first`.

        Every process takes part; only rank 0's result is whole.
        """
        if self.world_size == 1:
            return share.cpu()
        stretches = self.gather(torch.tensor([first, len(share)])).view(-1, 2).tolist()
        whole = torch.empty(total if self.rank == 0 else 0, dtype=share.dtype)
        for rank, (start, length) in enumerate(stretches):
            if self.rank == 0 and rank == 0:
                whole[start : start + length] = share.cpu()
            elif length and self.rank == 0:
                part = torch.empty(length, dtype=share.dtype, device=self.device)
                self._exchange(lambda part=part, rank=rank: dist.recv(part, rank))
                whole[start : start + length] = part.cpu()
            elif length and self.rank == rank:
                self._exchange(lambda: dist.send(share.contiguous(), 0))
        return whole

    def from_first(self, values: torch.Tensor) -> torch.Tensor:
        """Rank 0's values for all; `values` of the other processes only gives type and shape."""
        if self.world_size > 1:
            on_device = values.to(self.device)
            self._exchange(lambda: dist.broadcast(on_device, 0))
            values.copy_(on_device)
        return values

    def text_from_first(self, text: str) -> str:
        """Rank 0's text for all."""
        if self.world_size == 1:
            return text
        encoded = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8) if text else torch.empty(0, dtype=torch.uint8)
        length = int(self.from_first(torch.tensor([len(encoded)])))
        letters = encoded if self.rank == 0 else torch.empty(length, dtype=torch.uint8)
        return self.from_first(letters).numpy().tobytes().decode() if length else ""


def _device(name: Literal["cpu", "cuda"], local_rank: int) -> torch.device:
    """The local process's own device.

    Raises:
        StageError: the recipe asks for GPUs and there are too few.
    """
    if name == "cpu":
        return CPU
    found = torch.cuda.device_count()
    if local_rank >= found:
        raise StageError(
            f"device: cuda, but this machine has {found} CUDA GPU{'' if found == 1 else 's'} for process {local_rank + 1};"
            " set runtime.processes to their number, or device: cpu"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def leave_ranks() -> None:
    """Part from the other processes, once nothing is to be exchanged any more."""
    if dist.is_initialized():
        dist.destroy_process_group()


def launched_ranks(device: Literal["cpu", "cuda"]) -> Ranks | None:
    """The ranks of `accelerate launch` or torchrun, joined, or None outside of one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    from accelerate import PartialState

    own = _device(device, int(os.environ.get("LOCAL_RANK", "0")))
    state = PartialState(cpu=device == "cpu", timeout=PATIENCE)
    return Ranks(state.process_index, state.num_processes, own)


def join_ranks(rank: int, world_size: int, meeting_point: Path, device: Literal["cpu", "cuda"] = "cpu") -> Ranks:
    """Join the ranks of this machine through a file; gloo over the loopback interface, or NCCL between GPUs."""
    own = _device(device, rank)
    if world_size > 1:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        meeting = f"file://{meeting_point.absolute()}"
        backend = "gloo" if device == "cpu" else "nccl"
        dist.init_process_group(backend, init_method=meeting, rank=rank, world_size=world_size, timeout=PATIENCE)
    return Ranks(rank, world_size, own)
