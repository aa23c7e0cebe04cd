"""Training of the sample's image encoder: what a decoder, thrown away afterwards, can draw the picture from.

A little noise on the latents keeps neighbours of a latent neighbours as pictures, which a small diffusion model wants more
than the last decibel. While training each norm goes by its own batch, and no statistics are carried from update to update. At
the end they are set by many pictures and hold still; those of the mapper's norm, which has no weights, so that latents have
mean 0 and deviation 1 in every channel.
"""

from dataclasses import dataclass
from pathlib import Path

from repro.params import Latents
from repro.randomness import seed_for

import torch
from torch import nn
from torch.nn.functional import l1_loss, mse_loss

from families.effnet import IMAGENET_DEVIATION, IMAGENET_MEAN, EfficientNetEncoder
from sample.cascade_architecture import EFFNET, draw_weights, make_effnet
from sample.cascade_updates import BatchLoss, Settings, train
from sample.vae import Pictures, read_pictures

LATENT_NOISE = 0.15
ABSOLUTE_WEIGHT = 0.3
STATISTICS_BATCHES = 64
GROUP = "image encoder"
SETTINGS = Settings(updates=1500, batch=12, rates={GROUP: 3e-3})


def encoder_input(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures [n, 3, h, w] in -1..1 as the encoder takes them."""
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_DEVIATION))
    return (pictures * 0.5 + 0.5 - mean) / deviation


class Residual(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.GroupNorm(4, channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(nn.functional.silu(self.first(nn.functional.silu(self.norm(x)))))


def _doubled(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, 4 * after, 1), nn.PixelShuffle(2))


class PictureDecoder(nn.Module):
    """Latents [n, 16, h, w] to pictures [n, 3, 8h, 8w] in -1..1; only the training of the encoder has it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(EFFNET.latent_channels, 96, 3, padding=1), Residual(96),
            _doubled(96, 64), Residual(64),
            _doubled(64, 32), Residual(32),
            nn.Conv2d(32, 12, 3, padding=1), nn.PixelShuffle(2),
        )  # fmt: skip

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.layers(latents)


def _norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]


class AutoEncoder(nn.Module):
    def __init__(self, seed: int):
        super().__init__()
        self.encoder = make_effnet(seed)
        # Else each process would count the batches that it saw.
        for norm in _norms(self.encoder):
            norm.track_running_stats = False
        self.decoder = draw_weights(PictureDecoder(), seed, "picture_decoder")

    def forward(self, pictures: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encoder(encoder_input(pictures)) + LATENT_NOISE * noise)


@torch.no_grad()
def settle_norms(encoder: EfficientNetEncoder, pictures: Pictures) -> None:
    """Set the statistics of the backbone's norms to the mean of what they see of many batches, and have them hold still."""
    for norm in _norms(encoder.backbone):
        norm.track_running_stats, norm.momentum = True, None
        norm.reset_running_stats()
    encoder.backbone.train()
    for i in range(STATISTICS_BATCHES):
        encoder.backbone(encoder_input(pictures.batch(16, "effnet-norms", i)))
    encoder.backbone.eval()


@torch.no_grad()
def settle_latents(encoder: EfficientNetEncoder, pictures: Pictures) -> None:
    """Set the mapper's norm by mean and deviation of its input over many pictures, in float64, and have it hold still.

    While training nothing holds the mapper's own scale, which grows beyond half precision: here it is made so that latents
    have a deviation of 1 and the norm divides by 1.
    """
    convolution, norm = encoder.mapper
    total, squares, count = 0.0, 0.0, 0
    for i in range(STATISTICS_BATCHES):
        values = convolution(encoder.backbone(encoder_input(pictures.batch(16, "effnet-statistics", i)))).double()
        total, squares = total + values.sum(dim=(0, 2, 3)), squares + values.square().sum(dim=(0, 2, 3))
        count += values[:, 0].numel()
    mean = total / count
    deviation = (squares / count - mean.square()).sqrt()
    convolution.weight.copy_(convolution.weight.double() / deviation.view(-1, 1, 1, 1))
    norm.running_mean.copy_(mean / deviation)
    norm.running_var.fill_(1.0)
    encoder.eval()


@dataclass(frozen=True)
class ImageEncoderLesson:
    """The auto-encoder on all pictures of an image index."""

    index: Path
    images: Path
    latents: Latents
    seed: int
    state: Path
    settings: Settings = SETTINGS
    name: str = GROUP

    def pictures(self) -> Pictures:
        return read_pictures(self.index, self.images, self.latents, self.seed)

    def begin(self) -> tuple[dict[str, AutoEncoder], BatchLoss]:
        pictures, module = self.pictures(), AutoEncoder(self.seed)

        def loss_of(update: int, virtual: int) -> torch.Tensor:
            batch = pictures.batch(self.settings.batch, "effnet-batch", update, virtual)
            generator = torch.Generator().manual_seed(seed_for(self.seed, "effnet-noise", update, virtual))
            sides = (side // EFFNET.stride for side in batch.shape[2:])
            restored = module(batch, torch.randn((len(batch), EFFNET.latent_channels, *sides), generator=generator))
            return mse_loss(restored, batch) + ABSOLUTE_WEIGHT * l1_loss(restored, batch)

        return {GROUP: module}, loss_of


def train_image_encoder(lesson: ImageEncoderLesson, processes: int) -> AutoEncoder:
    """The trained encoder, whose norms hold still, and the decoder that it was trained with."""
    modules, _ = train(lesson, processes)
    module = modules[GROUP]
    pictures = lesson.pictures()
    settle_norms(module.encoder, pictures)
    settle_latents(module.encoder, pictures)
    return module
