"""The tagger's input has the reference programs' pixels, revision by revision."""

import hashlib
import json
from pathlib import Path
from typing import get_args

import repro  # noqa: F401

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tagging.wd_preprocess import Revision, model_input

REVISIONS = get_args(Revision)
# The names under which the golden answers have the revisions.
GOLDEN_NAMES = {"kohya-2024-04": "2024", "kohya-2025-02": "2025", "kohya-2026-01": "head"}


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(width * 10_000 + height).integers(0, 256, (height, width, len(mode)), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.golden
@pytest.mark.parametrize("revision", GOLDEN_NAMES)
def test_the_reference_pixels(golden: Path, revision: Revision):
    folder = golden / "evaluate/tagger/set"
    expected = json.loads((folder / "preprocess.json").read_text())[GOLDEN_NAMES[revision]]["sha256_uint8"]
    found = {}
    for name in expected:
        pixels = model_input(Image.open(folder / "images" / name), 448, revision)
        assert (pixels.dtype, pixels.shape) == (np.float32, (448, 448, 3))
        found[name] = hashlib.sha256(pixels.astype(np.uint8).tobytes()).hexdigest()
    assert found == expected


@pytest.mark.parametrize(("width", "height"), [(700, 450), (449, 449), (900, 1300)])
def test_the_middle_of_2024_interpolates_where_it_meant_to_average(width: int, height: int):
    """The third argument by place is where the result goes, not how: OpenCV does what it does when it is told nothing."""
    size = max(width, height)
    square = np.full((size, size, 3), 255, np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    image = noise(width, height)
    square[top : top + height, left : left + width] = np.asarray(image)[:, :, ::-1]
    meant_to_average = cv2.resize(square, (448, 448), cv2.INTER_AREA)
    found = model_input(image, 448, "kohya-2024-07")
    assert (found == meant_to_average).all()
    assert (found != model_input(image, 448, "kohya-2025-02")).any()


def test_smaller_pictures_are_enlarged_by_pillow_since_the_middle_of_2024():
    image = noise(64, 96)
    found = [model_input(image, 448, revision) for revision in REVISIONS]
    assert (found[1] == found[2]).all()
    assert (found[0] != found[1]).any()


def test_imgutils_resizes_a_white_square_by_bicubic():
    image = noise(81, 50)
    square = Image.new("RGB", (81, 81), "white")
    square.paste(image, (0, 15))
    expected = np.asarray(square.resize((64, 64), Image.Resampling.BICUBIC))[:, :, ::-1]
    assert (model_input(image, 64, "imgutils") == expected).all()


@pytest.mark.parametrize("revision", REVISIONS)
def test_what_is_transparent(revision: Revision):
    image = Image.new("RGBA", (32, 32), (10, 20, 30, 0))
    dropped = revision in ("kohya-2024-04", "kohya-2024-07", "kohya-2025-02")
    assert model_input(image, 32, revision)[5, 5].tolist() == ([30, 20, 10] if dropped else [255, 255, 255])


def test_sd_scripts_knows_a_palettes_transparent_colour():
    image = Image.new("P", (8, 8))
    image.putpalette([10, 20, 30])
    image.info["transparency"] = 0
    assert model_input(image, 8, "kohya-2026-01")[0, 0].tolist() == [255, 255, 255]
    assert model_input(image, 8, "imgutils")[0, 0].tolist() == [30, 20, 10]


@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from(REVISIONS), st.sampled_from(["RGB", "RGBA", "LA"]))
def test_any_picture_gives_whole_numbers_and_stays_as_it_was(width: int, height: int, revision: Revision, mode: str):
    image = noise(width, height, mode)
    before = image.tobytes()
    pixels = model_input(image, 48, revision)
    assert (pixels.dtype, pixels.shape) == (np.float32, (48, 48, 3))
    assert ((pixels == np.rint(pixels)) & (pixels >= 0) & (pixels <= 255)).all()
    assert image.tobytes() == before


@given(st.integers(1, 48), st.integers(1, 48), st.sampled_from(REVISIONS))
def test_a_picture_of_the_models_size_is_merely_padded(width: int, height: int, revision: Revision):
    image = noise(width, height)
    side = max(width, height)
    pixels = model_input(image, side, revision)
    top, left = (side - height) // 2, (side - width) // 2
    inner = pixels[top : top + height, left : left + width]
    assert (inner == np.asarray(image)[:, :, ::-1]).all()
    assert pixels.sum() == inner.sum() + 255 * 3 * (side * side - width * height)
