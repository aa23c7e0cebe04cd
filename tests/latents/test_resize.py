"""Resizing against OpenCV's and Pillow's answers."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latents.buckets import Placement
from latents.resize import fit, resize, shrink


def reference_image(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    channels = [(x * 7 + y * 3) % 256, (x * x + y * 5) % 256, ((x // 8 + y // 8) % 2) * 255]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


@pytest.mark.golden
def test_resize_and_crop(golden: Path) -> None:
    equal = 0
    cases = json.loads((golden / "train" / "resize_crop.json").read_text())["cases"]
    for case in cases:
        (bucket_width, bucket_height), (width, height) = case["bucket"], case["resized"]
        centre = Placement(
            (bucket_width, bucket_height), (width, height), (width - bucket_width) // 2, (height - bucket_height) // 2
        )
        pixels = fit(reference_image(*case["image_wh"]), centre)
        equal += hashlib.sha256(pixels.tobytes()).hexdigest() == case["sha256_main_2026"]
        # OpenCV rounds in float32, so that single pixels may differ by 1.
        np.testing.assert_allclose(pixels.reshape(-1, 3).mean(axis=0), case["mean_rgb"], atol=0.01)
        np.testing.assert_allclose(pixels[0, 0].astype(int), case["px_0_0"], atol=1)
        np.testing.assert_allclose(pixels[bucket_height // 2, bucket_width // 2].astype(int), case["px_mid"], atol=1)
    assert equal > len(cases) // 2


def test_shrinking_averages_areas() -> None:
    pixels = np.array([[[0], [60], [120]]], dtype=np.uint8).repeat(3, axis=2)
    assert shrink(pixels, (1, 1)).tolist() == [[[60, 60, 60]]]
    assert shrink(pixels, (2, 1))[0, :, 0].tolist() == [20, 100]


def test_enlarging_is_lanczos() -> None:
    image = reference_image(20, 30)
    expected = np.asarray(image.resize((40, 60), Image.Resampling.LANCZOS))
    assert (resize(image, (40, 60)) == expected).all()


def test_transparent_pixels_show_their_colour() -> None:
    image = Image.new("RGBA", (8, 8), (10, 20, 30, 0))
    assert fit(image, Placement((8, 8), (8, 8), 0, 0))[0, 0].tolist() == [10, 20, 30]
