"""What is drawn is what the plan says, and the same everywhere."""

import hashlib
import io
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from sample.catalogue import catalogue
from sample.characters import Drawn, Sprite
from sample.pictures import Background, draw, encode
from sample.posts import portrait_post

PAIRS = [(style, hair) for style, row in catalogue()["styles"].items() for hair in row["hair"]]


def a_character(hair: str = "long_hair", hair_colour: str = "green_hair", glasses: bool = False) -> Drawn:
    return Drawn("tester", "series", "1girl", hair, hair_colour, "fair", glasses)


def plain(character, style, number=0):
    picture = portrait_post(1, "test", character, style, number, "clean").picture
    return replace(picture, background=Background("flat", "white"), width=96, height=96)


def share_of_colour(image: Image.Image, colour: str, tolerance: int = 60) -> float:
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return float((np.abs(np.asarray(image).astype(int) - wanted).sum(axis=2) < tolerance).mean())


@pytest.mark.parametrize(("style", "hair"), PAIRS)
def test_hair_is_drawn_in_its_colour_by_every_style_that_claims_the_shape(style, hair):
    image = draw(plain(a_character(hair), style))
    assert share_of_colour(image, catalogue()["hair_colours"]["green_hair"]) > 0.01


@pytest.mark.parametrize("style", list(catalogue()["styles"]))
def test_glasses_change_the_picture_and_are_tagged(style):
    bare, wearing = a_character(), a_character(glasses=True)
    assert draw(plain(bare, style)).tobytes() != draw(plain(wearing, style)).tobytes()
    assert ("glasses", 0) in portrait_post(1, "test", wearing, style, 0, "clean").tags
    assert ("glasses", 0) not in portrait_post(1, "test", bare, style, 0, "clean").tags


@pytest.mark.parametrize("size", [(96, 96), (96, 144), (192, 128)])
def test_size_is_the_plans(size):
    picture = replace(plain(a_character(), "adventurer"), width=size[0], height=size[1])
    assert draw(picture).size == size


@pytest.mark.parametrize("tier", ["soft", "noisy", "miscoloured"])
def test_lesser_tiers_are_visible(tier):
    picture = plain(a_character(), "adventurer")
    clean, lesser = draw(picture), draw(replace(picture, tier=tier))
    assert np.abs(np.asarray(clean).astype(int) - np.asarray(lesser)).mean() > 1


def test_vector_pictures_are_stored_without_loss():
    picture = plain(a_character(), "personas")
    image = draw(picture)
    assert Image.open(io.BytesIO(encode(picture, image))).convert("RGB").tobytes() == image.tobytes()


def test_recoloured_sprites_keep_eyes_and_change_hair():
    sheet = {"eileen": "short_hair", "lucy": "long_hair", "sylvie": "long_hair"}
    for family in sheet:
        own = Sprite("someone", "series", (family,))
        other = Sprite("someone", "series", (family,), "green_hair", "purple")
        first, second = (draw(plain(c, None)) for c in (own, other))
        assert np.abs(np.asarray(first).astype(int) - np.asarray(second)).mean() > 5
        assert "green_hair" in other.core_tags


DIGEST = """
import hashlib
from sample.characters import Drawn, Sprite
from sample.pictures import draw, encode
from sample.posts import portrait_post
digest = hashlib.sha256()
for style in ("adventurer", "open-peeps", "toon-head", "dylan"):
    post = portrait_post(1, "test", Drawn("tester", "series", "1girl", "bob_cut", "pink_hair", "tan", True), style, 3)
    digest.update(encode(post.picture, draw(post.picture)))
    digest.update(repr(post).encode())
post = portrait_post(1, "test", Sprite("someone", "series", ("lucy",), "blue_hair", "red"), None, 0)
digest.update(encode(post.picture, draw(post.picture)))
print(digest.hexdigest())
"""


def test_same_bytes_in_processes_of_other_surroundings():
    surroundings = (
        {"PYTHONHASHSEED": "1", "TZ": "Asia/Tokyo", "LANG": "C"},
        {"PYTHONHASHSEED": "77", "TZ": "America/New_York", "LANG": "C.UTF-8", "VIPS_CONCURRENCY": "1"},
    )
    answers = [
        subprocess.run(
            [sys.executable, "-c", "import repro\n" + DIGEST], env={**os.environ, "PYTHONPATH": "stages", **other},
            capture_output=True, text=True, check=True,
        ).stdout
        for other in surroundings
    ]  # fmt: skip
    assert answers[0] == answers[1]
    assert len(answers[0].strip()) == len(hashlib.sha256().hexdigest())
