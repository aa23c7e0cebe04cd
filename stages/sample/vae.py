"""Training of the sample's AutoencoderKL: small, sharp on flat colours and drawn lines.

Loss: squared and absolute difference of the pixels and the posterior's KL divergence. The KL weight is
higher than Stable Diffusion's 1e-6 because so small a diffusion model wants a smooth latent space
more than the last decibel. Most updates see random crops, which cost a quarter of whole pictures.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from repro.numerics import fix_torch
from repro.params import Latents
from repro.processes import extra_ranks
from repro.progress import Progress
from repro.randomness import Stream, seed_for

import torch
from diffusers import AutoencoderKL
from torch.nn.functional import l1_loss, mse_loss

from booru.images.archives import PLACE_COLUMNS, ImageArchives, ImageIndex
from latents.buckets import Size, make_buckets, place
from latents.resize import decode, fit
from sample.architecture import VAE_FACTOR, make_vae
from training.adamw import AdamW
from training.flat import FlatWeights, chunk_squares, norm_of
from training.gradient_tree import tree_sum, virtual_ranks_of
from training.ranks import Ranks, join_ranks
from training.resume import Row, RunState, load_state, save_state


@dataclass(frozen=True)
class Settings:
    """One update is `virtual_ranks` batches of pictures of one bucket each: `crops` square crops in the
    first `crop_updates` updates, then `batch` whole pictures."""

    updates: int = 2200
    crop_updates: int = 1600
    crop_side: int = 32
    crops: int = 16
    virtual_ranks: int = 2
    batch: int = 4
    rate: float = 3e-3
    warmup: int = 20
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    max_gradient: float = 1.0
    absolute_weight: float = 0.3
    kl_weight: float = 1e-4
    save_every: int = 50


@dataclass(frozen=True)
class Job:
    """What every rank needs to know."""

    index: Path
    images: Path
    latents: Latents
    seed: int
    state: Path
    settings: Settings


class Pictures:
    """Pictures by bucket, in memory: {bucket (width, height): uint8 [n, 3, height, width]}."""

    def __init__(self, by_bucket: dict[Size, torch.Tensor], seed: int):
        self.by_bucket, self.seed = dict(sorted(by_bucket.items())), seed
        self.total = sum(map(len, self.by_bucket.values()))

    def batch(self, size: int, purpose: str, *index: int) -> torch.Tensor:
        """`size` pictures of one bucket, float32 in [-1, 1]; buckets are drawn by their numbers of pictures."""
        stream = Stream(self.seed, purpose, *index)
        place_in_all = stream.below(self.total)
        for pictures in self.by_bucket.values():
            if place_in_all < len(pictures):
                break
            place_in_all -= len(pictures)
        return to_range(pictures[[stream.below(len(pictures)) for _ in range(size)]])

    def crops(self, size: int, side: int, purpose: str, *index: int) -> torch.Tensor:
        """`size` pictures of one bucket, cut to the same square of `side` pixels."""
        pictures = self.batch(size, purpose, *index)
        stream = Stream(self.seed, f"{purpose}-crop", *index)
        top, left = (stream.below(length - side + 1) for length in pictures.shape[2:])
        return pictures[:, :, top : top + side, left : left + side]


def to_range(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 0..255 -> float32 -1..1."""
    return pictures.float() / 127.5 - 1.0


def read_pictures(index: Path, images: Path, settings: Latents, seed: int) -> Pictures:
    """All pictures of an image index, resized into their buckets."""
    buckets = make_buckets(
        (settings.resolution, settings.resolution), settings.min_bucket_reso, settings.max_bucket_reso, settings.bucket_reso_steps
    )
    archives = ImageArchives(images)
    by_bucket: dict[Size, list[torch.Tensor]] = {}
    for row in ImageIndex(index).frame(["id", *PLACE_COLUMNS]).iter_rows(named=True):
        image = decode(archives.read(row))
        placement = place(image.size, buckets)
        by_bucket.setdefault(placement.bucket, []).append(torch.from_numpy(fit(image, placement)).permute(2, 0, 1))
    return Pictures({bucket: torch.stack(pictures) for bucket, pictures in by_bucket.items()}, seed)


def reconstruction_loss(vae: AutoencoderKL, pictures: torch.Tensor, noise: torch.Tensor, settings: Settings) -> torch.Tensor:
    """Loss of one batch [b, 3, h, w] whose posterior is sampled with `noise` [b, 4, h/4, w/4]."""
    posterior = vae.encode(pictures).latent_dist
    restored = vae.decode(posterior.mean + posterior.std * noise).sample
    divergence = 0.5 * (posterior.mean.square() + posterior.var - 1.0 - posterior.logvar).mean()
    difference = mse_loss(restored, pictures) + settings.absolute_weight * l1_loss(restored, pictures)
    return difference + settings.kl_weight * divergence


def rate(update: int, settings: Settings) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    if update < settings.warmup:
        return settings.rate * (update + 1) / settings.warmup
    return settings.rate * 0.5 * (1 + math.cos(math.pi * (update - settings.warmup) / (settings.updates - settings.warmup)))


def update_gradient(
    vae: AutoencoderKL, flat: FlatWeights, pictures: Pictures, update: int, job: Job, ranks: Ranks
) -> tuple[torch.Tensor, float]:
    """The owned slice of the gradient of the mean loss of the update's batches, and that loss."""
    settings = job.settings
    losses = torch.zeros(settings.virtual_ranks, dtype=torch.float64)
    mine = virtual_ranks_of(ranks.rank, ranks.world_size, settings.virtual_ranks)

    def gradient_of(i: int) -> torch.Tensor:
        buffer, virtual = flat.collect_gradients(), mine[i]
        if update < settings.crop_updates:
            batch = pictures.crops(settings.crops, settings.crop_side, "vae-batch", update, virtual)
        else:
            batch = pictures.batch(settings.batch, "vae-batch", update, virtual)
        generator = torch.Generator().manual_seed(seed_for(job.seed, "vae-noise", update, virtual))
        shape = (len(batch), vae.config.latent_channels, *(side // VAE_FACTOR for side in batch.shape[2:]))
        noise = torch.randn(shape, generator=generator)
        loss = reconstruction_loss(vae, batch, noise, settings)
        (loss / settings.virtual_ranks).backward()
        losses[virtual] = loss.detach()
        return buffer

    gradient = ranks.sum_slice(tree_sum(len(mine), gradient_of))
    return gradient, math.fsum(ranks.combine(losses).tolist()) / settings.virtual_ranks


def run_updates(job: Job, ranks: Ranks) -> tuple[AutoencoderKL, list[Row]]:
    """Train from the newest saved state to the last update; every rank ends with the same bits."""
    fix_torch()
    settings = job.settings
    vae = make_vae(job.seed)
    pictures = read_pictures(job.index, job.images, job.latents, job.seed)
    flat = FlatWeights({"vae": list(vae.named_parameters())}, settings.virtual_ranks)
    optimizer = AdamW(flat, ranks.slice_of(len(flat.weights)), settings)
    state = load_state(job.state, ranks, flat, optimizer) or RunState()
    progress = Progress("VAE", settings.updates, "updates", done=len(state.history))
    for update in range(len(state.history), settings.updates):
        gradient, loss = update_gradient(vae, flat, pictures, update, job, ranks)
        norm = norm_of(ranks.gather(chunk_squares(gradient)))
        if norm > settings.max_gradient:
            gradient.mul_(settings.max_gradient / norm)
        optimizer.step(gradient, {"vae": rate(update, settings)}, update)
        ranks.share_slices(flat.weights)
        state.history.append(Row(update, loss, rate(update, settings), 0.0, norm))
        done = len(state.history)
        if ranks.rank == 0:
            progress.advance(note=f"loss {loss:.4f}")
        if done % settings.save_every == 0 or done == settings.updates:
            save_state(job.state, ranks, flat, optimizer, state)
    vae.register_to_config(scaling_factor=scaling_factor(vae, pictures))
    return vae.eval(), state.history


@torch.no_grad()
def scaling_factor(vae: AutoencoderKL, pictures: Pictures, batches: int = 32) -> float:
    """1 / standard deviation of sampled latents, as Rombach et al. 2022 (appendix G) rescale them."""
    sum_1 = sum_2 = 0.0
    count = 0
    for i in range(batches):
        posterior = vae.encode(pictures.batch(8, "vae-scale", i)).latent_dist
        mean, variance = posterior.mean.double(), posterior.var.double()
        sum_1 += float(mean.sum())
        sum_2 += float((mean.square() + variance).sum())
        count += mean.numel()
    return round(1.0 / math.sqrt(sum_2 / count - (sum_1 / count) ** 2), 5)


def _other_rank(rank: int, world_size: int, job: Job, meeting_point: Path) -> None:
    run_updates(job, join_ranks(rank, world_size, meeting_point))


def train_vae(job: Job, processes: int) -> tuple[AutoencoderKL, list[Row]]:
    """Train in `processes` processes of this machine, or as many as there are virtual ranks."""
    processes = min(processes, job.settings.virtual_ranks)
    meeting_point = job.state / "meeting-point"
    meeting_point.unlink(missing_ok=True)
    with extra_ranks(_other_rank, processes, (processes, job, meeting_point)):
        return run_updates(job, join_ranks(0, processes, meeting_point))
