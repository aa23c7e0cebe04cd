"""An image's pixels in its bucket: RGB, resized to cover, cut at the centre.

The resize rule is sd-scripts' since 9ca7a5b6 (2024-07-20): area averaging where neither side grows,
else Lanczos. Its area averaging is OpenCV's INTER_AREA; here the same averages are taken in
float64 by plain additions, so that the bits depend on no library (within 1 of OpenCV's, which
rounds in float32). Lanczos is Pillow's in both.
"""

import numpy as np
from PIL import Image

from booru.images.decoding import decode as decode  # for stages/sample, whose bytes are part of a committed lock
from latents.buckets import Placement, Size


def to_rgb(image: Image.Image) -> Image.Image:
    """Drop alpha as sd-scripts does: transparent pixels show the colour stored under them."""
    return image.convert("RGB")


def area_average(pixels: np.ndarray, count: int) -> np.ndarray:
    """Average the rows of float64 [n, ...] over `count` equal spans, pixels at a span's ends counted in part."""
    sums = np.concatenate([np.zeros_like(pixels[:1]), np.cumsum(pixels, axis=0)])
    edges = np.arange(count + 1, dtype=np.float64) * (len(pixels) / count)
    whole = np.minimum(edges.astype(np.int64), len(pixels) - 1)
    part = (edges - whole).reshape(-1, *[1] * (pixels.ndim - 1))
    below = sums[whole] + part * pixels[whole]
    return np.diff(below, axis=0) / (len(pixels) / count)


def shrink(pixels: np.ndarray, size: Size) -> np.ndarray:
    """Area-average uint8 [h, w, 3] to `size` (width, height), rounding to the nearest."""
    width, height = size
    rows = area_average(pixels.astype(np.float64), height)
    both = area_average(rows.transpose(1, 0, 2), width).transpose(1, 0, 2)
    return np.clip(np.rint(both), 0, 255).astype(np.uint8)


def resize(image: Image.Image, size: Size) -> np.ndarray:
    """Resize an RGB image to `size` (width, height); uint8 [height, width, 3]."""
    if image.size == size:
        return np.asarray(image)
    if image.width >= size[0] and image.height >= size[1]:
        return shrink(np.asarray(image), size)
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS))


def fit(image: Image.Image, placement: Placement) -> np.ndarray:
    """The image's pixels in its bucket: uint8 [bucket height, bucket width, 3]."""
    width, height = placement.bucket
    pixels = resize(to_rgb(image), placement.resized)
    return np.array(pixels[placement.top : placement.top + height, placement.left : placement.left + width], order="C")
