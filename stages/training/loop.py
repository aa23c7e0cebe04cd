"""The training loop: pure arithmetic from saved state to saved state."""

import math
from dataclasses import dataclass
from pathlib import Path

from repro.errors import StageError
from repro.numerics import fix_torch
from repro.params import Params
from repro.progress import Progress

import torch

from families.sdxl import Sdxl, denoising_losses, load_sdxl
from training.adapters import trained_parameters
from training.examples import Examples
from training.flat import FlatWeights, gradient_norm
from training.gradient_tree import tree_sum, virtual_ranks_of
from training.optimizers import make_optimizer
from training.order import DataOrder, MicroBatch
from training.ranks import Ranks
from training.resume import Row, load_state, save_state
from training.schedules import rate_factor


@dataclass(frozen=True)
class Job:
    """What every rank needs to know."""

    params: Params
    base: Path
    latents: Path
    captions: Path
    state: Path


def _add_gradients(
    model: Sdxl, examples: Examples, batches: list[MicroBatch], epoch: int, params: Params, entries_in_update: int
) -> list[float]:
    """Accumulate the gradients of one virtual rank's micro-batches; returns each entry's loss."""
    losses: list[float] = []
    for entries in batches:
        batch = examples.batch(entries, epoch)
        per_entry = denoising_losses(
            model, batch.latents, batch.noise, batch.timesteps, batch.captions, batch.sizes,
            params.train.max_token_length, params.train.min_snr_gamma,
        )  # fmt: skip
        (per_entry.sum() / entries_in_update).backward()
        losses += per_entry.detach().tolist()
    return losses


def _update_gradient(
    job: Job, model: Sdxl, examples: Examples, flat: FlatWeights, order: DataOrder, update: int, ranks: Ranks
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient of update's mean loss over its entries, and the loss of each entry in order (float64)."""
    epoch, work = order.epoch_of(update), order.update(update)
    counts = [sum(map(len, batches)) for batches in work]
    losses = torch.zeros(sum(counts), dtype=torch.float64)
    mine = virtual_ranks_of(ranks.rank, ranks.world_size, len(work))

    def gradient_of(i: int) -> torch.Tensor:
        buffer, virtual = flat.collect_gradients(), mine[i]
        values = _add_gradients(model, examples, work[virtual], epoch, job.params, sum(counts))
        first = sum(counts[:virtual])
        losses[first : first + counts[virtual]] = torch.tensor(values, dtype=torch.float64)
        return buffer

    gradient = ranks.sum_gradient(tree_sum(len(mine), gradient_of))
    return gradient, ranks.combine(losses)


def _refuse_bad_losses(losses: torch.Tensor, update: int, order: DataOrder, examples: Examples) -> None:
    """A loss that is not finite stops the run before the weights are touched."""
    if bool(torch.isfinite(losses).all()):
        return
    entries = [entry for batches in order.update(update) for batch in batches for entry in batch]
    bad = [entries[i] for i in (~torch.isfinite(losses)).nonzero().flatten().tolist()]
    raise StageError(
        f"update {update}: the loss of post {examples.post_ids(bad)[0]} and {len(bad) - 1} more is not finite;"
        " lower lr or te_lr, or look at these posts (the state before this update is kept)"
    )


def run_updates(job: Job, ranks: Ranks) -> tuple[dict[str, torch.Tensor], list[Row]]:
    """Train from the newest saved state to the last update; returns the trained tensors and the history.

    Every rank ends with the same bits; rank 0 saves the state every `train.save_every` updates.

    Raises:
        StageError: a loss is not finite, a rank was lost, or the process count fits no tree.
    """
    fix_torch()
    params = job.params
    virtual_ranks_of(ranks.rank, ranks.world_size, params.train.virtual_ranks)
    model = load_sdxl(job.base)
    examples = Examples(job.latents, job.captions, params, model.vae.config.scaling_factor)
    flat = FlatWeights(trained_parameters(model, params))
    optimizer = make_optimizer(flat, params.train)
    history = load_state(job.state, flat.weights, optimizer.state)
    settings = params.train
    order = DataOrder(examples.buckets(), settings.micro_batch, settings.accumulation, settings.virtual_ranks, params.seed)
    progress = Progress("train", settings.updates, "updates", done=len(history))
    for update in range(len(history), settings.updates):
        gradient, losses = _update_gradient(job, model, examples, flat, order, update, ranks)
        _refuse_bad_losses(losses, update, order, examples)
        norm = gradient_norm(gradient)
        if norm > settings.max_grad_norm:
            gradient.mul_(settings.max_grad_norm / (norm + 1e-6))
        factor = rate_factor(update, settings)
        rates = {"unet": params.lr * factor, "text": params.te_lr * factor}
        optimizer.step(gradient, rates)
        loss = math.fsum(losses.tolist()) / len(losses)
        history.append(Row(update, loss, rates["unet"], rates["text"], norm))
        if ranks.rank == 0:
            progress.advance(note=f"loss {loss:.4f}")
            if len(history) % settings.save_every == 0 and len(history) < settings.updates:
                save_state(job.state, flat.weights, optimizer.state, history)
    if ranks.rank == 0:
        save_state(job.state, flat.weights, optimizer.state, history)
    return flat.views(flat.weights), history
