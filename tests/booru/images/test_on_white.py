"""Transparency on white; the encoder's tests compare the pixels with the reference's."""

import pytest
from PIL import Image

from booru.images.on_white import on_white


@pytest.mark.parametrize(("alpha", "red"), [(0, (255, 255, 255)), (255, (200, 0, 0))])
def test_what_is_transparent_shows_white(alpha: int, red: tuple[int, int, int]):
    image = Image.new("RGBA", (3, 2), (200, 0, 0, alpha))
    found = on_white(image)
    assert (found.mode, found.size, found.getpixel((0, 0))) == ("RGB", (3, 2), red)
    assert image.getpixel((0, 0)) == (200, 0, 0, alpha)


def test_a_palette_loses_its_transparency():
    image = Image.new("P", (1, 1))
    image.putpalette([10, 20, 30])
    image.info["transparency"] = 0
    assert on_white(image).getpixel((0, 0)) == (10, 20, 30)


@pytest.mark.parametrize("mode", ["L", "CMYK", "1", "RGB"])
def test_opaque_pictures_are_merely_converted(mode: str):
    image = Image.new(mode, (2, 2))
    assert on_white(image).tobytes() == image.convert("RGB").tobytes()
