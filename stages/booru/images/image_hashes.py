"""Perceptual hashes of a picture: small numbers that stay close when it is resized or encoded again.

They are imagehash 4.3's `dhash()` and `phash(hash_size=16)` with these differences: transparent
pictures are hashed on white (imagehash drops alpha and hashes whatever colour was stored under it),
16-bit greys by their upper 8 bits (imagehash clips them to white), and the cosine transform is taken in
whole numbers, which no CPU rounds differently. Where a float transform gives noise about zero, as for
plain and symmetric pictures, the whole numbers give zero.
"""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from booru.images.decoding import UnreadableImageError, decode

DHASH_SIDE = 8
PHASH_SIDE = 16
PHASH_BYTES = PHASH_SIDE * PHASH_SIDE // 8
DCT_SIDE = 4 * PHASH_SIDE
# Sums of 64 x 64 pixels under two tables of 20 bits, doubled, stay below 2^62.
COSINE_BITS = 20


class Measured(NamedTuple):
    """What the decoded picture tells: its size in pixels and its hashes, or why it cannot be read."""

    width: int
    height: int
    dhash: int
    phash: bytes
    unreadable: str | None


def cosines() -> np.ndarray:
    """cos(pi k (2 n + 1) / 128) in units of 2^-20: i64 [16 frequencies k, 64 pixels n]; a DCT-II without its scale.

    None of the cosines lies within 1e-4 of a rounding boundary, so that every libm gives the same table.
    """
    return np.array(
        [
            [round(math.cos(math.pi * k * (2 * n + 1) / (2 * DCT_SIDE)) * 2**COSINE_BITS) for n in range(DCT_SIDE)]
            for k in range(PHASH_SIDE)
        ],
        dtype=np.int64,
    )


COSINES = cosines()


def grey_on_white(image: Image.Image) -> Image.Image:
    """The picture in 256 greys; what is transparent lets white through."""
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours)
    if image.mode.startswith("I;16"):  # Pillow would clip, so that all of them were white
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("L")


def difference_hash(grey: Image.Image) -> int:
    """64 bits, rows from the top, most significant first: is a cell of 9 x 8 darker than its right neighbour?"""
    cells = np.asarray(grey.resize((DHASH_SIDE + 1, DHASH_SIDE), Image.Resampling.LANCZOS))
    return int.from_bytes(np.packbits(cells[:, 1:] > cells[:, :-1]).tobytes(), "big")


def cosine_hash(grey: Image.Image) -> bytes:
    """256 bits as 32 bytes: which of the 16 x 16 lowest frequencies of the picture at 64 x 64 exceed their median?"""
    pixels = np.asarray(grey.resize((DCT_SIDE, DCT_SIDE), Image.Resampling.LANCZOS)).astype(np.int64)
    frequencies = COSINES @ pixels @ COSINES.T
    middle = np.sort(frequencies, axis=None)[frequencies.size // 2 - 1 : frequencies.size // 2 + 1]
    return np.packbits(2 * frequencies > middle.sum()).tobytes()


def measure(data: bytes) -> Measured:
    """Decode an image file whole and measure it; what cannot be decoded has its reason and zeros."""
    try:
        image = decode(data)
    except UnreadableImageError as error:
        return Measured(0, 0, 0, bytes(PHASH_BYTES), str(error))
    grey = grey_on_white(image)
    return Measured(image.width, image.height, difference_hash(grey), cosine_hash(grey), None)
