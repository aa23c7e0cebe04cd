"""The sample's tagger: a small convolution net that tells ratings, general tags and the taught characters.

Learnt as the WD taggers are, all tags at once by binary cross-entropy. Characters, who decide whether a caption is of any
use, weigh more than the general tags, of which there are many.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from repro.numerics import fix_torch
from repro.progress import Progress
from repro.randomness import Stream, seed_for

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from sample.population import SEED
from sample.tagger_pictures import LabelledPicture, Vocabulary, kept_pixels, plain_views, targets, varied_views


@dataclass(frozen=True)
class Settings:
    updates: int = 600
    batch: int = 64
    rate: float = 4e-3
    warmup: int = 30
    weight_decay: float = 0.05
    character_weight: float = 4.0


def make_network(outputs: int) -> nn.Sequential:
    """float32 [n, 3, 64, 64] in -1..1 -> logits [n, outputs, 1, 1]. Only what becomes integer convolutions: convolution
    with BatchNorm and ReLU, the last one bare."""
    return nn.Sequential(
        *_block(3, 16, 5, stride=2),
        *_block(16, 40, 3, stride=2),
        *_block(40, 40, 3),
        *_block(40, 80, 3, stride=2),
        *_block(80, 80, 3),
        *_block(80, 128, 3, stride=2),
        *_block(128, 256, 4, padding=0),
        nn.Conv2d(256, outputs, 1),
    )


def _block(inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int | None = None) -> list[nn.Module]:
    padding = kernel // 2 if padding is None else padding
    return [nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


@torch.no_grad()
def initialise(network: nn.Sequential, shares: torch.Tensor) -> None:
    """He-normal convolutions from keyed noise; the last one's bias says how often each output is true (`shares`)."""
    for name, parameter in network.named_parameters():
        if parameter.dim() == 4:
            generator = torch.Generator().manual_seed(seed_for(SEED, "tagger weights", name))
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * math.sqrt(2 / parameter[0].numel()))
    network[-1].weight.mul_(0.1)
    network[-1].bias.copy_(torch.logit(shares.clamp(1e-3, 1 - 1e-3)))


def learning_rate(update: int, settings: Settings) -> float:
    """Linear warm-up, then linearly to zero."""
    if update < settings.warmup:
        return settings.rate * (update + 1) / settings.warmup
    return settings.rate * (settings.updates - update) / (settings.updates - settings.warmup)


def epochs(count: int, batch: int, updates: int) -> list[list[int]]:
    """A batch of places in 0..count-1 for each update; every epoch in an order of its own, its incomplete batch left out."""
    batches: list[list[int]] = []
    while len(batches) < updates:
        order = list(range(count))
        Stream(SEED, "tagger batches", len(batches)).shuffle(order)
        batches += [order[start : start + batch] for start in range(0, count - batch + 1, batch)]
    return batches[:updates]


def train(pictures: Sequence[LabelledPicture], names: Vocabulary, settings: Settings) -> nn.Sequential:
    """A network that has learnt the pictures' tags, in evaluation mode. One thread; the same bytes every time."""
    fix_torch()
    pixels = kept_pixels((picture.image for picture in pictures), len(pictures))
    truth = targets(pictures, names)
    weights = torch.ones(len(names.names))
    weights[-len(names.characters) :] = settings.character_weight
    network = make_network(len(names.names))
    initialise(network, truth.mean(0))
    network.train()
    # The fused kernel alone has a correctly rounded square root on every CPU.
    optimizer = torch.optim.AdamW(network.parameters(), betas=(0.9, 0.98), weight_decay=settings.weight_decay, fused=True)
    progress = Progress("tagger", settings.updates, "updates")
    for update, batch in enumerate(epochs(len(pictures), settings.batch, settings.updates)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(update, settings)
        logits = network(varied_views(pixels[batch], update)).flatten(1)
        loss = binary_cross_entropy_with_logits(logits, truth[batch], weights, reduction="sum") / len(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        progress.advance(note=f"loss {loss.item():.3f}")
    return network.eval()


def calibration_views(pictures: Sequence[LabelledPicture], count: int = 256) -> torch.Tensor:
    """Plain views to measure activations on, evenly spread over the pictures."""
    chosen = [pictures[number * len(pictures) // count].image for number in range(count)]
    return plain_views(kept_pixels(iter(chosen), count))
