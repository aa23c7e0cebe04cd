"""The training loop: from saved state to saved state, the same bits in any number of processes."""

import math
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from repro.cost import RunCost
from repro.errors import StageError
from repro.numerics import fix_torch
from repro.params import Params
from repro.progress import Progress

import torch

from families.family import family
from families.text_cache import TextCache
from training.adapters import make_trained
from training.examples import Examples
from training.flat import FlatWeights, chunk_squares, norm_of
from training.gradient_tree import tree_sum, virtual_ranks_of
from training.loss_scale import LossScale
from training.milestones import CHECKPOINTS, PICTURES, checkpoint_name, drop_checkpoints
from training.optimizers import make_optimizer
from training.order import DataOrder, MicroBatch
from training.pictures import draw_pictures
from training.ranks import Ranks
from training.resume import Row, RunState, load_state, save_state
from training.schedules import rate_factor, schedule_words
from training.stopping import StopRequest
from training.tensorboard import LossCurves
from training.weight_file import write_weights

# Added to the norm where the limit is divided by it, as torch.nn.utils.clip_grad_norm_ does.
CLIP_EPSILON = 1e-6


@dataclass(frozen=True)
class Job:
    """What every rank needs to know."""

    params: Params
    base: Path
    latents: Path
    captions: Path
    state: Path
    curves: Path | None = None


class Trainer:
    """One process' part of a run: the model, its share of the optimizer, and the data order.

    Raises:
        StageError: an input is missing or does not fit, or the process count fits no tree.
    """

    def __init__(self, job: Job, ranks: Ranks):
        fix_torch()
        params, self.settings, self.ranks = job.params, job.params.train, ranks
        self.params = params
        self.mine = virtual_ranks_of(ranks.rank, ranks.world_size, self.settings.virtual_ranks)
        self.family = family(params.family)
        draws = self.settings.pictures is not None and ranks.rank == 0  # the only one that does
        self.model = self.family.load(job.base, precision=self.settings.precision, draws=draws)
        scale = self.family.latent_scale(self.family.modules_of(self.model))
        self.examples = Examples(job.latents, job.captions, params, scale)
        self.trained = make_trained(self.model, params)
        # Only now, in the recipe's precision: a card that trains half-precision weights need not hold them in float32 first.
        self.family.move_to(self.model, ranks.device)
        self.loss_weights = self.family.loss_weights(self.model, self.settings, ranks.device)
        self.flat = FlatWeights(self.trained.groups, self.settings.virtual_ranks, ranks.device)
        self.trained.fold()
        numbers = len(self.flat.weights)
        self.optimizer = make_optimizer(self.flat, ranks.slice_of(numbers), self.settings)
        self.order = DataOrder(
            self.examples.buckets(), self.settings.micro_batch_size, self.settings.accumulation,
            self.settings.virtual_ranks, params.seed,
        )  # fmt: skip
        self.updates = self.settings.updates or self.settings.epochs * self.order.updates_per_epoch
        if params.te_lr == 0:
            self.model.text_cache = TextCache(params.runtime.text_cache_megabytes)
        if params.runtime.gradient_checkpointing:
            self.family.checkpoint_gradients(self.model)

    def first_state(self) -> RunState:
        return RunState(scale=LossScale() if self.settings.precision == "fp16" else None)

    def update(self, state: RunState, stop: StopRequest) -> bool:
        """Compute and apply the next update and add its row to the history; True when any process was asked to stop, which
        leaves everything as it was.

        Raises:
            StageError: a loss or the gradient is not finite; nothing was changed.
        """
        update = len(state.history)
        scale = state.scale.value if state.scale else 1.0
        gradient, (losses, unweighted), stopping = self.gradient(update, scale, stop)
        if stopping:
            return True
        loss = math.fsum(losses.tolist()) / len(losses)
        norm = norm_of(self.ranks.gather(chunk_squares(gradient))) / scale
        if math.isfinite(loss) and math.isfinite(norm):
            factor = rate_factor(state.applied, self.settings, self.updates)
            rates = {"unet": self.params.lr * factor, "text": self.params.te_lr * factor}
            self._apply(gradient, norm, scale, rates, state.applied)
            if self.loss_weights.state is not None:
                self._follow(update, unweighted)
            state.history.append(Row(update, loss, rates["unet"], rates["text"], norm))
            state.applied += 1
            if state.scale:
                state.scale.succeed()
        elif state.scale and math.isfinite(loss):
            state.scale.overflow(update)
            state.history.append(Row(update, loss, 0.0, 0.0, None))
        else:
            self._refuse(update, losses, norm)
        return False

    def gradient(self, update: int, scale: float, stop: StopRequest) -> tuple[torch.Tensor, torch.Tensor, bool]:
        """The owned slice of the gradient of update's mean weighted loss over its entries, times `scale`; float64 [2, entries],
        the weighted and the unweighted loss of each entry in order; and whether any process was asked to stop: then the others
        are not whole."""
        epoch, work = self.order.epoch_of(update), self.order.update(update)
        counts = [sum(map(len, batches)) for batches in work]
        losses = torch.zeros(2 * sum(counts) + 1, dtype=torch.float64)
        by_entry = losses[:-1].view(2, -1)
        computed: dict[int, list[torch.Tensor]] = {}

        def gradient_of(i: int) -> torch.Tensor:
            buffer, virtual = self.flat.collect_gradients(), self.mine[i]
            computed[virtual] = self._add_gradients(work[virtual], epoch, scale, sum(counts), stop)
            self.flat.release_gradients()
            return buffer

        gradient = self.ranks.sum_slice(tree_sum(len(self.mine), gradient_of))
        # Fetched only now: a GPU computes one micro-batch while the next is prepared.
        for virtual, of_batches in computed.items():
            if of_batches:
                values, first = torch.cat(of_batches, dim=1).double().cpu(), sum(counts[:virtual])
                by_entry[:, first : first + values.shape[1]] = values
        losses[-1] = float(stop.signal > 0)
        self.ranks.combine(losses)
        return gradient, by_entry, bool(losses[-1] > 0)

    def _add_gradients(
        self, batches: list[MicroBatch], epoch: int, scale: float, entries_in_update: int, stop: StopRequest
    ) -> list[torch.Tensor]:
        """Accumulate the scaled gradients of one virtual rank's micro-batches, until asked to stop; returns each entry's weighted
        and unweighted loss, a tensor [2, entries] a micro-batch."""
        losses = []
        for entries in batches:
            if stop.signal:
                break
            batch = self.examples.batch(entries, epoch)
            unweighted = self.family.losses(self.model, batch, self.settings)
            weighted = unweighted * self.loss_weights.of(batch.timesteps)
            (weighted.sum() * scale / entries_in_update).backward()
            losses.append(torch.stack([weighted.detach(), unweighted.detach()]))
        self.trained.finish_gradients()
        return losses

    def _apply(self, gradient: torch.Tensor, norm: float, scale: float, rates: dict[str, float], applied: int) -> None:
        """Unscale and clip the owned slice of the gradient, update the owned weights, and exchange them."""
        if scale != 1.0:
            gradient.mul_(1.0 / scale)
        if norm > self.settings.max_grad_norm:
            gradient.mul_(self.settings.max_grad_norm / (norm + CLIP_EPSILON))
        if self.optimizer.replicated:
            whole = torch.empty_like(self.flat.weights)
            owned = self.ranks.slice_of(len(whole))
            whole[owned.start : owned.stop] = gradient
            self.ranks.share_slices(whole)
            self.optimizer.step(whole, rates, applied)
        else:
            self.optimizer.step(gradient, rates, applied)
            self.ranks.share_slices(self.flat.weights)
        self.trained.fold()

    def _follow(self, update: int, unweighted: torch.Tensor) -> None:
        """Have the loss weights take in the losses of all of an update's micro-batches, in order, on every process alike."""
        epoch, first = self.order.epoch_of(update), 0
        for batches in self.order.update(update):
            for entries in batches:
                losses = unweighted[first : first + len(entries)].float()
                self.loss_weights.follow(self.examples.timesteps(entries, epoch), losses)
                first += len(entries)

    def _refuse(self, update: int, losses: torch.Tensor, norm: float) -> None:
        """A loss or gradient that is not finite stops the run before the weights are touched."""
        entries = [entry for batches in self.order.update(update) for batch in batches for entry in batch]
        bad = [entries[i] for i in (~torch.isfinite(losses)).nonzero().flatten().tolist()]
        posts = ", ".join(map(str, self.examples.post_ids((bad or entries)[:8])))
        more = f" and {len(bad or entries) - 8} more" if len(bad or entries) > 8 else ""
        if bad:
            what = f"the loss of post {posts}{more} is not finite"
        else:
            mean = math.fsum(losses.tolist()) / len(losses)
            what = f"the gradient's norm is {norm} though the loss is {mean:.6g} (posts {posts}{more})"
        raise StageError(f"update {update}: {what}; lower lr or te_lr, or look at these posts (the last saved state is kept)")

    def weights(self) -> dict[str, torch.Tensor]:
        """The trained tensors, on the CPU, by name."""
        return self.flat.views(self.flat.weights.cpu())


def _pass_milestones(trainer: Trainer, job: Job, done: int) -> None:
    """Draw the pictures and keep the checkpoint that are due after `done` updates."""
    pictures, checkpoints = trainer.settings.pictures, trainer.settings.checkpoints
    if pictures and done % pictures.every == 0:
        draw_pictures(trainer.family, trainer.model, pictures, job.params.seed, done, job.state / PICTURES)
    if checkpoints and done and done % checkpoints.every == 0:
        write_weights(job.state / CHECKPOINTS / checkpoint_name(done), trainer.weights(), job.params, job.base)
        drop_checkpoints(job.state, done, checkpoints)


def _end(rank: int, number: int, done: int) -> None:
    """End the process of a run that was asked to stop and has saved its state; rank 0 says so."""
    if rank:
        sys.exit(0)
    print(f"train: state saved after {done} updates", file=sys.stderr, flush=True)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    print("train: stopped; the same command goes on from here", file=sys.stderr, flush=True)
    sys.exit(128 + signal.SIGTERM)


def run_updates(
    job: Job, ranks: Ranks, stop: StopRequest, cost: RunCost | None = None
) -> tuple[dict[str, torch.Tensor], list[Row]]:
    """Train from the newest saved state to the last update; returns the trained tensors, on rank 0 alone, and the history.

    Every rank ends with the same bits. The state is saved every `train.save_every` updates and when a signal asks the
    run to stop, which then ends the process; `cost` is told of each time.

    Raises:
        StageError: an input does not fit, a loss or gradient is not finite, or a rank was lost.
    """
    trainer = Trainer(job, ranks)
    state = load_state(job.state, ranks, trainer.flat, trainer.optimizer, trainer.loss_weights.state)
    if state:
        trainer.trained.fold()
    else:
        state = trainer.first_state()
    begun = len(state.history)

    def save() -> None:
        save_state(job.state, ranks, trainer.flat, trainer.optimizer, state, trainer.loss_weights.state)
        if cost:
            cost.note(len(state.history) - begun)

    first, updates, settings = ranks.rank == 0, trainer.updates, trainer.settings
    if first and settings.warmup_updates >= updates:
        print(f"train: {schedule_words(settings, updates)}", file=sys.stderr, flush=True)
    if first and not begun:
        _pass_milestones(trainer, job, 0)
    progress = Progress("train", updates * settings.batch_size, "images", done=begun * settings.batch_size)
    curves = LossCurves(job.curves if first else None, begun)
    while len(state.history) < updates:
        if trainer.update(state, stop):
            save()
            curves.close()
            _end(ranks.rank, stop.signal, len(state.history))
        done, row = len(state.history), state.history[-1]
        if first:
            if row.grad_norm is None:
                lower = f"the loss scale is now {state.scale.value:g}"
                print(f"train: update {row.update} skipped: its fp16 gradient overflowed; {lower}", file=sys.stderr)
            progress.advance(settings.batch_size, note=f"update {done}/{updates} loss {row.loss:.4f}")
            curves.add(row)
            _pass_milestones(trainer, job, done)
        if done % settings.save_every == 0 or done == updates:
            curves.flush()
            save()
    curves.close()
    return trainer.weights() if first else {}, state.history
