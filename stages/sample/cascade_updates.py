"""Updates for the parts of the sample's Stable Cascade that the trainer does not train: its image encoder and its decoder.

One update is a batch of each virtual rank, added in the fixed tree; AdamW; a short rise of the rate, then half a cosine to
zero. State is saved every so many updates, so a run that was killed goes on, in any number of processes, to the same bits.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from repro.numerics import fix_torch
from repro.processes import extra_ranks
from repro.progress import Progress

import torch
from torch import nn

from training.adamw import AdamW
from training.flat import FlatWeights, chunk_squares, norm_of
from training.gradient_tree import tree_sum, virtual_ranks_of
from training.ranks import Ranks, join_ranks, leave_ranks
from training.resume import Row, RunState, load_state, save_state
from training.schedules import half_cosine

# The loss of one batch, by (update, virtual rank); nothing else may decide it.
BatchLoss = Callable[[int, int], torch.Tensor]


@dataclass(frozen=True)
class Settings:
    """One update is `virtual_ranks` batches of `batch` pictures; `save_every` so many updates the state is saved.

    rates: the highest learning rate of each group of modules.
    """

    updates: int
    batch: int
    rates: dict[str, float]
    virtual_ranks: int = 2
    warmup: int = 50
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    max_gradient: float = 1.0
    save_every: int = 100


class Lesson(Protocol):
    """What is taught to what. A process that helps gets a copy, so it holds paths and numbers only.

    name: for the progress line; state: the folder of the saved states.
    """

    name: str
    state: Path
    settings: Settings

    def begin(self) -> tuple[dict[str, nn.Module], BatchLoss]:
        """The untrained modules by the groups of `settings.rates`, and the loss of their batches; the same in every process."""


def rate_factor(update: int, settings: Settings) -> float:
    """A straight rise over the warm-up, then half a cosine to what would be zero at `updates`."""
    if update < settings.warmup:
        return (update + 1) / settings.warmup
    return half_cosine(update - settings.warmup, settings.updates - settings.warmup)


def update_gradient(
    flat: FlatWeights, loss_of: BatchLoss, update: int, settings: Settings, ranks: Ranks
) -> tuple[torch.Tensor, float]:
    """The owned slice of the gradient of the mean loss of the update's batches, and that loss."""
    losses = torch.zeros(settings.virtual_ranks, dtype=torch.float64)
    mine = virtual_ranks_of(ranks.rank, ranks.world_size, settings.virtual_ranks)

    def gradient_of(i: int) -> torch.Tensor:
        buffer = flat.collect_gradients()
        loss = loss_of(update, mine[i])
        (loss / settings.virtual_ranks).backward()
        losses[mine[i]] = loss.detach()
        return buffer

    gradient = ranks.sum_slice(tree_sum(len(mine), gradient_of))
    return gradient, math.fsum(ranks.combine(losses).tolist()) / settings.virtual_ranks


def run_updates(lesson: Lesson, ranks: Ranks) -> tuple[dict[str, nn.Module], list[Row]]:
    """Train from the newest saved state to the last update; every rank ends with the same bits."""
    fix_torch()
    settings = lesson.settings
    modules, loss_of = lesson.begin()
    groups = {group: list(module.named_parameters(group)) for group, module in modules.items()}
    flat = FlatWeights(groups, settings.virtual_ranks)
    optimizer = AdamW(flat, ranks.slice_of(len(flat.weights)), settings)
    state = load_state(lesson.state, ranks, flat, optimizer) or RunState()
    progress = Progress(lesson.name, settings.updates, "updates", done=len(state.history))
    for update in range(len(state.history), settings.updates):
        gradient, loss = update_gradient(flat, loss_of, update, settings, ranks)
        norm = norm_of(ranks.gather(chunk_squares(gradient)))
        if norm > settings.max_gradient:
            gradient.mul_(settings.max_gradient / norm)
        rates = {group: rate * rate_factor(update, settings) for group, rate in settings.rates.items()}
        optimizer.step(gradient, rates, update)
        ranks.share_slices(flat.weights)
        state.history.append(Row(update, loss, max(rates.values()), 0.0, norm))
        done = len(state.history)
        if ranks.rank == 0:
            progress.advance(note=f"loss {loss:.4f}")
        if done % settings.save_every == 0 or done == settings.updates:
            save_state(lesson.state, ranks, flat, optimizer, state)
    flat.release_gradients()
    for module in modules.values():
        module.requires_grad_(False)
    return modules, state.history


def _other_rank(rank: int, world_size: int, lesson: Lesson, meeting_point: Path) -> None:
    run_updates(lesson, join_ranks(rank, world_size, meeting_point))
    leave_ranks()


def train(lesson: Lesson, processes: int) -> tuple[dict[str, nn.Module], list[Row]]:
    """Train in `processes` processes of this machine, or as many as there are virtual ranks."""
    processes = min(processes, lesson.settings.virtual_ranks)
    lesson.state.mkdir(parents=True, exist_ok=True)
    meeting_point = lesson.state / "meeting-point"
    meeting_point.unlink(missing_ok=True)
    with extra_ranks(_other_rank, processes, (processes, lesson, meeting_point)):
        result = run_updates(lesson, join_ranks(0, processes, meeting_point))
        leave_ranks()
    return result
