"""Decoding of what is an image and of what is none."""

import io

import numpy as np
import pytest
from PIL import Image

from booru.images.decoding import UnreadableImageError, decode


def encoded(form: str) -> bytes:
    ramp = np.arange(64, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(
        np.stack([np.add.outer(ramp, ramp), np.add.outer(ramp, 2 * ramp), np.add.outer(3 * ramp, ramp)], axis=-1)
    ).save(buffer, form)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_whole_image_is_decoded(form: str) -> None:
    assert decode(encoded(form)).size == (64, 64)


@pytest.mark.parametrize(
    "data",
    [b"", b"not an image", *(encoded(form)[:-40] for form in ["PNG", "JPEG", "WEBP", "AVIF"])],
    ids=lambda data: str(data[:12]),
)
def test_unreadable_images(data: bytes) -> None:
    with pytest.raises(UnreadableImageError, match=r"^[^<>]+$"):
        decode(data)


def test_no_damage_escapes_as_another_error() -> None:
    draws = np.random.Generator(np.random.Philox(key=5))
    readable = unreadable = 0
    for form in ["PNG", "JPEG", "WEBP", "AVIF"]:
        for _ in range(150):
            data = bytearray(encoded(form))
            for _ in range(int(draws.integers(1, 6))):
                data[int(draws.integers(0, min(len(data), 300)))] = int(draws.integers(0, 256))
            try:
                decode(bytes(data))
                readable += 1
            except UnreadableImageError:
                unreadable += 1
    assert readable > 0
    assert unreadable > 0


def test_pictures_beyond_pillow_s_limit_are_unreadable() -> None:
    data = bytearray(encoded("BMP"))
    data[18:26] = (20_000).to_bytes(4, "little") * 2
    with pytest.raises(UnreadableImageError, match="exceeds limit"):
        decode(bytes(data))
