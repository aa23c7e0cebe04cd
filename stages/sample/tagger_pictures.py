"""The pictures that the sample's annotation models learn from, and how the tagger sees them.

They show the taught characters in posts of their own (none of data/sample), the base model's characters, and places
without anyone; on some a word is drawn.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.progress import Progress
from repro.randomness import Stream, seed_for

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import affine_grid, grid_sample

from sample.awkward import scenery
from sample.characters import Character, Drawn
from sample.pictures import draw
from sample.population import SEED, characters
from sample.posts import CHARACTER, GENERAL, RATINGS, Post, girl_pairs, portrait_post
from sample.tagger_lettering import any_word, lettered, signed

PURPOSE = "tagger"
DRAWN_POSTS, SPRITE_POSTS, STRANGERS_POSTS, PAIR_POSTS, SCENERY_POSTS = 240, 140, 20, 160, 48
# One picture in so many is drawn a second time, with a word on it.
LETTERED_EVERY = 8
TEXT_TAG = "english_text"
# A tag on fewer pictures than this could not be learnt.
FEWEST_PICTURES = 24
SEEN = 64
KEPT = 2 * SEEN


@dataclass(frozen=True)
class LabelledPicture:
    """A picture and what is true of it; `tier` as in sample.posts."""

    image: Image.Image
    rating: str
    general: frozenset[str]
    characters: frozenset[str]
    tier: str


@dataclass(frozen=True)
class Vocabulary:
    """The tagger's outputs in their order: ratings, then general tags, then characters; `counts` of the latter two."""

    general: tuple[str, ...]
    characters: tuple[str, ...]
    counts: tuple[int, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return (*RATINGS, *self.general, *self.characters)


def learning_posts() -> list[Post]:
    """Posts of the taught characters, of the base's ("strangers"), of two girls, and of places."""
    posts: list[Post] = []
    for character in characters("taught"):
        posts += _portraits(character, DRAWN_POSTS if isinstance(character, Drawn) else SPRITE_POSTS)
    for character in characters("base"):
        posts += _portraits(character, STRANGERS_POSTS)
    girls = [c for c in characters("taught") if isinstance(c, Drawn) and c.gender == "1girl"]
    posts += girl_pairs(SEED, PURPOSE, girls, PAIR_POSTS, lambda girl: girl.styles)
    # Numbers that data/sample's own few places do not have.
    return posts + [scenery(1000 + number, "general", SEED) for number in range(SCENERY_POSTS)]


def _portraits(character: Character, count: int) -> list[Post]:
    styles: list[str | None] = [*character.styles] if isinstance(character, Drawn) else [None]
    return [portrait_post(SEED, PURPOSE, character, styles[n % len(styles)], n) for n in range(count)]


def draw_pictures(posts: Sequence[Post], art: Path) -> list[LabelledPicture]:
    """The posts' pictures in their order, after every LETTERED_EVERYth the same one with a word."""
    progress = Progress("taggers", len(posts), "pictures drawn")
    pictures = []
    for number, post in enumerate(posts):
        assert post.picture is not None
        picture = labelled(post, draw(post.picture, art))
        pictures.append(picture)
        if number % LETTERED_EVERY == 0:
            pictures.append(with_word(picture, number))
        progress.advance()
    return pictures


def labelled(post: Post, image: Image.Image) -> LabelledPicture:
    assert post.picture is not None
    general, named = (frozenset(tag for tag, kind in post.tags if kind == wanted) for wanted in (GENERAL, CHARACTER))
    return LabelledPicture(image, post.rating, general, named, post.picture.tier)


def with_word(picture: LabelledPicture, number: int) -> LabelledPicture:
    stream = Stream(SEED, "tagger word", number)
    draw_word = stream.choice((lettered, signed))
    image = draw_word(picture.image, any_word(stream), stream)
    return LabelledPicture(image, picture.rating, picture.general | {TEXT_TAG}, picture.characters, picture.tier)


def wordless(pictures: Sequence[LabelledPicture]) -> list[Image.Image]:
    """The images of those without a word on them."""
    return [picture.image for picture in pictures if TEXT_TAG not in picture.general]


def vocabulary(pictures: Sequence[LabelledPicture]) -> Vocabulary:
    """General tags of FEWEST_PICTURES or more, most frequent first, and the taught characters likewise; equals by name."""
    general = Counter(tag for picture in pictures for tag in picture.general)
    taught = {character.name for character in characters("taught")}
    named = Counter(name for picture in pictures for name in picture.characters if name in taught)
    rows = [_ordered({tag: count for tag, count in general.items() if count >= FEWEST_PICTURES}), _ordered(named)]
    return Vocabulary(
        tuple(name for name, _ in rows[0]), tuple(name for name, _ in rows[1]), tuple(n for row in rows for _, n in row)
    )


def _ordered(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def targets(pictures: Sequence[LabelledPicture], names: Vocabulary) -> torch.Tensor:
    """float32 [n, outputs]: 1 where a picture has the rating or tag, else 0."""
    place = {name: number for number, name in enumerate(names.general + names.characters, len(RATINGS))}
    table = torch.zeros(len(pictures), len(names.names))
    for row, picture in zip(table, pictures, strict=True):
        row[RATINGS.index(picture.rating)] = 1
        row[[place[tag] for tag in sorted(picture.general | picture.characters) if tag in place]] = 1
    return table


def square(image: Image.Image) -> Image.Image:
    """The picture in the middle of a white square, as every revision of the taggers' preprocessing has it."""
    side = max(image.size)
    canvas = Image.new("RGB", (side, side), "white")
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas


def kept_pixels(images: Iterator[Image.Image], count: int) -> torch.Tensor:
    """uint8 [count, 3, 128, 128], blue, green, red: twice as fine as the tagger sees them, for sharp shifted views."""
    pixels = torch.empty(count, 3, KEPT, KEPT, dtype=torch.uint8)
    for row, image in zip(pixels, images, strict=True):
        resized = square(image).resize((KEPT, KEPT), Image.Resampling.BICUBIC)
        row.copy_(torch.from_numpy(np.array(resized)[:, :, ::-1].copy()).permute(2, 0, 1))
    return pixels


def network_input(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels 0..255 as the network is given them: -1..1."""
    return (pixels - 128) / 128


def plain_views(pixels: torch.Tensor) -> torch.Tensor:
    """What the tagger sees of kept pixels: float32 [n, 3, 64, 64]."""
    return network_input(pixels.float().unfold(2, 2, 2).unfold(3, 2, 2).mean(dim=(4, 5)))


def varied_views(pixels: torch.Tensor, *index: int) -> torch.Tensor:
    """Views of kept pixels moved by up to 5 %, 0.92 to 1.08 times as large, a little lighter or darker.

    float32 [n, 3, 64, 64]; a function of the index. Nothing is mirrored or turned: the posts are, and words are not.
    """
    generator = torch.Generator().manual_seed(seed_for(SEED, "tagger views", *index))
    n = len(pixels)
    theta = torch.zeros(n, 2, 3)
    size = 1 + 0.08 * (2 * torch.rand(n, generator=generator) - 1)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / size
    theta[:, :, 2] = 0.1 * (2 * torch.rand(n, 2, generator=generator) - 1)
    grid = affine_grid(theta, [n, 3, SEEN, SEEN], align_corners=False)
    views = grid_sample(pixels.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return network_input(views) * (0.95 + 0.1 * torch.rand(n, 1, 1, 1, generator=generator))
