"""Aspect-ratio buckets: which picture sizes a recipe trains on, and which of them an image gets.

The rules are those of kohya-ss/sd-scripts (main 48d368fa, 2026-02-16: `library/model_util.py`
make_bucket_resolutions, `library/train_util.py` BucketManager), with its limits `min_bucket_reso`,
`max_bucket_reso` and `bucket_reso_steps`, or, with `bucket_no_upscale`, without limits of a side: there
the images, not the recipe, decide which buckets exist. All sizes are (width, height) in pixels.

The crop is the one that is cut out of the pixels, and training is told just that. (The reference tells
another: it computes the bars of a picture fitted into its bucket, which lie on the other axis.)
"""

import math
from dataclasses import dataclass

from repro.errors import StageError
from repro.params import Latents

Size = tuple[int, int]


@dataclass(frozen=True)
class Placement:
    """How one image gets into its bucket: resized to `resized`, then `bucket` cut out at (left, top)."""

    bucket: Size
    resized: Size
    left: int
    top: int


def make_buckets(resolution: Size, smallest: int, largest: int, step: int) -> list[Size]:
    """All bucket sizes whose area is at most that of `resolution` (width, height), sorted.

    Args:
        smallest, largest: limits of a side, rounded down and up to a multiple of `step`.

    Raises:
        StageError: no bucket is possible.
    """
    area = resolution[0] * resolution[1]
    smallest, largest = smallest // step * step, -(-largest // step) * step
    if smallest < step:
        raise StageError(f"latents.min_bucket_reso must be at least latents.bucket_reso_steps ({step})")
    if math.isqrt(area) < step:
        raise StageError(f"latents.resolution gives no bucket: {resolution[0]}x{resolution[1]} is below one step of {step}")
    square = math.isqrt(area) // step * step
    buckets = {(square, square)}
    for width in range(smallest, largest + 1, step):
        height = min(largest, area // width // step * step)
        if height >= smallest:
            buckets |= {(width, height), (height, width)}
    return sorted(buckets)


def recipe_buckets(settings: Latents) -> list[Size]:
    """The buckets of a recipe that enlarges pictures into them, as `make_buckets` makes them."""
    square = (settings.resolution, settings.resolution)
    return make_buckets(square, settings.min_bucket_reso, settings.max_bucket_reso, settings.bucket_reso_steps)


def check_buckets(buckets: list[Size], multiple: int) -> None:
    """Refuse buckets that the model cannot take.

    Args:
        multiple: pixels of the coarsest cell of what encodes them and is trained on them.

    Raises:
        StageError: a side of a bucket is no multiple of it.
    """
    for width, height in buckets:
        if width % multiple or height % multiple:
            raise StageError(
                f"latents.bucket_reso_steps gives the bucket {width}x{height}, but this base model needs multiples of {multiple}"
            )


def choose_bucket(image: Size, buckets: list[Size]) -> Size:
    """The bucket for an image: its own size if that is one, else the nearest ratio width/height (the
    difference is linear, not logarithmic, and the first of equals wins)."""
    if image in buckets:
        return image
    ratio = image[0] / image[1]
    return min(buckets, key=lambda bucket: abs(bucket[0] / bucket[1] - ratio))


def cover_size(image: Size, bucket: Size) -> Size:
    """The size, in the image's own ratio, that just covers the bucket."""
    wider = image[0] / image[1] > bucket[0] / bucket[1]
    scale = bucket[1] / image[1] if wider else bucket[0] / image[0]
    return int(image[0] * scale + 0.5), int(image[1] * scale + 0.5)


def _at_the_centre(bucket: Size, resized: Size) -> Placement:
    return Placement(bucket, resized, (resized[0] - bucket[0]) // 2, (resized[1] - bucket[1]) // 2)


def place(image: Size, buckets: list[Size]) -> Placement:
    """Bucket, resized size and centre crop of an image (width, height)."""
    bucket = choose_bucket(image, buckets)
    return _at_the_centre(bucket, image if image == bucket else cover_size(image, bucket))


def _nearest_step(length: float, step: int) -> int:
    """The length rounded to a whole number, and that down to a multiple of `step`."""
    return int(length + 0.5) // step * step


def reduced_size(image: Size, area: int, step: int) -> Size | None:
    """The size of about `area` pixels to which an image above it shrinks: one side a multiple of `step`, the one
    that keeps the ratio better (the height, where both do alike). None where a side would be below one step."""
    ratio = image[0] / image[1]
    wanted_width = math.sqrt(area * ratio)
    width, height = _nearest_step(wanted_width, step), _nearest_step(area / wanted_width, step)
    height_for_width, width_for_height = _nearest_step(width / ratio, step), _nearest_step(height * ratio, step)
    if not height or not height_for_width:  # the reference divides by these
        return None
    if abs(width / height_for_width - ratio) < abs(width_for_height / height - ratio):
        return width, int(width / ratio + 0.5)
    return int(height * ratio + 0.5), height


def place_without_enlarging(image: Size, area: int, step: int) -> Placement | None:
    """As `place` in the mode `bucket_no_upscale`: an image of at most `area` pixels keeps its size, a larger one
    shrinks to about that; what exceeds a multiple of `step` is cut off.

    None for an image that has not one step on a side; the reference fails on such, or makes a bucket of no pixels.
    """
    resized = image if image[0] * image[1] <= area else reduced_size(image, area, step)
    if resized is None or min(resized) < step:
        return None
    return _at_the_centre((resized[0] // step * step, resized[1] // step * step), resized)
