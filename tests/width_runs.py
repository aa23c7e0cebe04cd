"""Runs of the loop in several processes that keep what every update computed, to be compared bit by bit."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import repro  # noqa: F401 - fixes the numeric environment
from repro.processes import extra_ranks

import torch
import torch.distributed as dist
from safetensors.torch import load_file

from training.loop import Job, Trainer
from training.ranks import Ranks, join_ranks
from training.resume import save_state
from training.stopping import StopRequest


class OrderlessRanks(Ranks):
    """The control: gradients summed by gloo's all-reduce, in an order of its own."""

    def sum_slice(self, gradient: torch.Tensor) -> torch.Tensor:
        dist.all_reduce(gradient)
        owned = self.slice_of(len(gradient))
        return gradient[owned.start : owned.stop]


class RecordingTrainer(Trainer):
    """Keeps the slice of every update's gradient that this process owns, before it is unscaled and clipped, and the losses."""

    def __init__(self, job: Job, ranks: Ranks):
        super().__init__(job, ranks)
        self.folder = job.state

    def gradient(self, update: int, scale: float, stop: StopRequest) -> tuple[torch.Tensor, torch.Tensor, bool]:
        gradient, losses, stopping = super().gradient(update, scale, stop)
        (self.folder / f"gradient.{update}.{self.ranks.rank}").write_bytes(gradient.numpy().tobytes())
        (self.folder / f"losses.{update}.{self.ranks.rank}").write_bytes(losses.numpy().tobytes())
        return gradient, losses, stopping


def record(jobs: Iterable[Job], ranks: Ranks) -> None:
    for job in jobs:
        trainer = RecordingTrainer(job, ranks)
        state = trainer.first_state()
        while len(state.history) < trainer.updates:
            trainer.update(state, StopRequest())
        save_state(job.state, ranks, trainer.flat, trainer.optimizer, state, trainer.loss_weights.state)
        (job.state / f"weights.{ranks.rank}").write_bytes(trainer.flat.weights.numpy().tobytes())


def _record_in_rank(rank: int, world_size: int, jobs: Sequence[Job], meeting_point: Path, orderless: bool) -> None:
    ranks = join_ranks(rank, world_size, meeting_point)
    record(jobs, OrderlessRanks(rank, world_size) if orderless else ranks)


def record_at_width(jobs: Sequence[Job], processes: int, meeting_point: Path, orderless: bool = False) -> None:
    """Run the jobs, one after the other, in so many processes; each leaves its records in its state folder."""
    with extra_ranks(_record_in_rank, processes, (processes, jobs, meeting_point, orderless)):
        try:
            _record_in_rank(0, processes, jobs, meeting_point, orderless)
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()


def recorded(folder: Path, processes: int) -> dict[str, bytes]:
    """Gradient and losses of every update, the saved weights and optimizer state, and what was counted.

    Losses and weights of all processes must be the same bytes; of a gradient each has a slice.
    """
    records = {}
    for first in sorted(folder.glob("*.0")):
        parts = [first.with_suffix(f".{rank}").read_bytes() for rank in range(processes)]
        if first.stem.startswith("gradient"):
            records[first.stem] = b"".join(parts)
        else:
            assert parts == [parts[0]] * processes, f"{first.stem} differs between processes"
            records[first.stem] = parts[0]
    (saved,) = folder.glob("update-*.safetensors")
    records |= {f"saved {name}": tensor.numpy().tobytes() for name, tensor in load_file(saved).items()}
    return records


def differing(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    """Names of the records that are not the same bytes."""
    assert one.keys() == other.keys()
    return [name for name in one if one[name] != other[name]]
