"""The pictures that the sample's CCIP encoder learns from, and how they are varied while it learns.

The encoder sees 64x64 pixels of whatever it is given (384x384, averaged by sixes). Pictures are kept twice as fine, so
that a shifted or scaled view of them is still sharp.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.progress import Progress
from repro.randomness import Stream, seed_for

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import affine_grid, conv2d, grid_sample, interpolate, pad

from ccip.encoder import CHANNEL_MEAN, CHANNEL_STD, SIDE
from sample.characters import Character, Drawn
from sample.pictures import VectorFigure, draw
from sample.population import SEED, characters, random_posts
from sample.posts import CHARACTER, Post

SEEN = 64
KEPT = 2 * SEEN
# Red and blue changed about: hair and skin have the wrong colours, so the picture does not show its character.
MISLEADING_TIER = "miscoloured"


@dataclass(frozen=True)
class CharacterPictures:
    """One character's pictures; `styles` names the hand that drew each, None for sprites (one hand draws them all)."""

    character: Character
    images: list[Image.Image]
    styles: list[str | None]


def draw_population(art: Path) -> list[CharacterPictures]:
    """Draw the posts of the `ccip` population, miscoloured ones left out; characters in the population's order."""
    posts: dict[str, list[Post]] = {character.name: [] for character in characters("ccip")}
    for post in sorted(random_posts("ccip"), key=lambda post: post.id):
        (name,) = (tag for tag, kind in post.tags if kind == CHARACTER)
        if post.picture is not None and post.picture.tier != MISLEADING_TIER:
            posts[name].append(post)
    progress = Progress("ccip", len(posts), "characters drawn")
    drawn = []
    for character in characters("ccip"):
        plans = [post.picture for post in posts[character.name] if post.picture is not None]
        styles = [figure.style if isinstance(figure, VectorFigure) else None for (figure,) in (plan.figures for plan in plans)]
        drawn.append(CharacterPictures(character, [draw(plan, art) for plan in plans], styles))
        progress.advance()
    return drawn


def split_by_character(
    population: Sequence[CharacterPictures], every: int
) -> tuple[list[CharacterPictures], list[CharacterPictures]]:
    """(to learn from, held out): one character in `every` is held out, of the drawn ones and of the sprites alike."""
    learnt, held_out = [], []
    for kind in (True, False):
        group = [pictures for pictures in population if isinstance(pictures.character, Drawn) == kind]
        Stream(SEED, "ccip split", int(kind)).shuffle(group)
        held_out += group[::every]
        learnt += [pictures for number, pictures in enumerate(group) if number % every]
    return learnt, held_out


def kept_pixels(images: Sequence[Image.Image]) -> torch.Tensor:
    """uint8 [n, 3, 128, 128]: each picture resized as the encoder's interface does it, then averaged by threes."""
    pixels = torch.empty(len(images), 3, KEPT, KEPT, dtype=torch.uint8)
    for number, image in enumerate(images):
        squashed = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR).reduce(SIDE // KEPT)
        pixels[number] = torch.from_numpy(np.array(squashed)).permute(2, 0, 1)
    return pixels


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    """[n, 3, h, w] in 0..1, channels normalised as the encoder's interface does it."""
    mean, std = (torch.from_numpy(values).float() for values in (CHANNEL_MEAN, CHANNEL_STD))
    return (pixels - mean) / std


def plain_views(pixels: torch.Tensor) -> torch.Tensor:
    """What the encoder sees of kept pixels: float32 [n, 3, 64, 64], normalised."""
    return normalised(interpolate(pixels.float() / 255, scale_factor=0.5, mode="area"))


def varied_views(pixels: torch.Tensor, seed: int, *index: int) -> torch.Tensor:
    """Views of kept pixels as another artist's framing and a generator's softness would give them.

    Moved by up to 6 %, 0.9 to 1.15 times as large, up to 10 % wider or narrower, turned by up to 6 degrees, mirrored,
    light and contrast changed a little (never the hue: it belongs to the character); three fifths are made soft, one fifth
    goes through JPEG. float32 [n, 3, 64, 64], normalised; a function of (seed, index).
    """
    generator = torch.Generator().manual_seed(seed_for(seed, "ccip views", *index))
    views = _lit(_soft(_framed(pixels, generator), generator), generator)
    return normalised(_through_jpeg(views, Stream(seed, "ccip jpeg", *index)))


def _uniform(generator: torch.Generator, low: float, high: float, *shape: int) -> torch.Tensor:
    return low + (high - low) * torch.rand(*shape, generator=generator)


def _framed(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """float32 [n, 3, 64, 64] in 0..1. At natural size a sample lies in the middle of 2x2 kept pixels: their mean."""
    n = len(pixels)
    turn = _uniform(generator, -0.105, 0.105, n)
    size = _uniform(generator, 0.9, 1.15, n)
    widening = _uniform(generator, 0.9, 1.1, n)
    mirror = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
    shift = _uniform(generator, -0.12, 0.12, n, 2)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = torch.cos(turn) * mirror / (size * widening)
    theta[:, 0, 1] = -torch.sin(turn) / size
    theta[:, 1, 0] = torch.sin(turn) * mirror / size
    theta[:, 1, 1] = torch.cos(turn) * widening / size
    theta[:, :, 2] = shift
    grid = affine_grid(theta, [n, 3, SEEN, SEEN], align_corners=False)
    return grid_sample(pixels.float() / 255, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _soft(views: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Of five, two stay as they are, one is blurred, one scaled down and up again, one both."""
    views = views.clone()
    kind = torch.randint(5, (len(views),), generator=generator)
    for size in (48, 56):
        chosen = ((kind == 1) | (kind == 2)) & (torch.rand(len(views), generator=generator) < 0.6)
        if chosen.any():
            small = interpolate(views[chosen], size=(size, size), mode="bilinear", antialias=True, align_corners=False)
            views[chosen] = interpolate(small, size=(SEEN, SEEN), mode="bilinear", align_corners=False)
    for sigma in (0.5, 0.9):
        chosen = ((kind == 2) | (kind == 3)) & (torch.rand(len(views), generator=generator) < 0.6)
        if chosen.any():
            views[chosen] = _blurred(views[chosen], sigma)
    return views


def _blurred(views: torch.Tensor, sigma: float, radius: int = 3) -> torch.Tensor:
    weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    weights = weights / weights.sum()
    views = pad(views, (radius,) * 4, mode="replicate")
    views = conv2d(views, weights.view(1, 1, 1, -1).repeat(3, 1, 1, 1), groups=3)
    return conv2d(views, weights.view(1, 1, -1, 1).repeat(3, 1, 1, 1), groups=3)


def _lit(views: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    n = len(views)
    contrast = _uniform(generator, 0.88, 1.08, n, 1, 1, 1)
    light = _uniform(generator, -0.04, 0.04, n, 1, 1, 1)
    tint = _uniform(generator, -0.015, 0.015, n, 3, 1, 1)
    noise = 0.02 * torch.randn(views.shape, generator=generator) * torch.rand(n, 1, 1, 1, generator=generator)
    return ((views - 0.5) * contrast + 0.5 + light + tint + noise).clamp(0, 1)


def _through_jpeg(views: torch.Tensor, stream: Stream) -> torch.Tensor:
    """Every fifth view, by chance, at a quality of 15 to 60."""
    for number in range(len(views)):
        if stream.below(5) == 0:
            pixels = (views[number] * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "JPEG", quality=15 + stream.below(46))
            views[number] = torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1).float() / 255
    return views
