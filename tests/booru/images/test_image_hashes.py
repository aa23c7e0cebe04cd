"""Perceptual hashes: imagehash's bits, close for one picture's versions, far for different pictures."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance

from booru.images.image_hashes import PHASH_BYTES, Measured, measure


def drawing(number: int, size: tuple[int, int] = (480, 640)) -> Image.Image:
    """A picture of 30 coloured shapes, another for each number."""
    draws = np.random.Generator(np.random.Philox(key=number))
    image = Image.new("RGB", size, tuple(draws.integers(0, 256, 3).tolist()))
    pen = ImageDraw.Draw(image)
    for i in range(30):
        x, y = (draws.random(2) * size).tolist()
        w, h = (draws.random(2) * size / 2).tolist()
        colour = tuple(draws.integers(0, 256, 3).tolist())
        (pen.ellipse if i % 2 else pen.rectangle)((x - w / 2, y - h / 2, x + w / 2, y + h / 2), fill=colour)
    return image


def encoded(image: Image.Image, form: str = "PNG", **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def distances(a: Measured, b: Measured) -> tuple[int, int]:
    phash = int.from_bytes(a.phash, "big") ^ int.from_bytes(b.phash, "big")
    return (a.dhash ^ b.dhash).bit_count(), phash.bit_count()


def with_text(image: Image.Image) -> Image.Image:
    image = image.copy()
    ImageDraw.Draw(image).text((10, image.height - 20), "drawn by nobody", fill="white")
    return image


VERSIONS = {
    "half the size": lambda image: encoded(image.resize((240, 320), Image.Resampling.LANCZOS)),
    "JPEG": lambda image: encoded(image, "JPEG", quality=60),
    "WebP": lambda image: encoded(image, "WEBP", quality=60),
    "brighter": lambda image: encoded(ImageEnhance.Brightness(image).enhance(1.1)),
    "small text": lambda image: encoded(with_text(image)),
}


@pytest.mark.parametrize("version", VERSIONS)
def test_versions_of_a_picture_are_near(version: str) -> None:
    for number in range(20):
        image = drawing(number)
        dhash, phash = distances(measure(encoded(image)), measure(VERSIONS[version](image)))
        assert dhash <= 6, number
        assert phash <= 32, number


def test_different_pictures_are_far() -> None:
    measured = [measure(encoded(drawing(number))) for number in range(40)]
    found = [distances(a, b) for i, a in enumerate(measured) for b in measured[:i]]
    assert min(dhash for dhash, _ in found) > 6
    assert min(phash for _, phash in found) > 64


def test_dhash_reads_rows_from_the_top_and_asks_whether_it_gets_lighter() -> None:
    cells = np.full((8, 9), 100, dtype=np.uint8)
    cells[0] = np.arange(9)  # lighter at each step
    cells[1] = np.arange(9)[::-1]  # darker
    cells[2, 8] = 101  # lighter at the last step only
    assert measure(encoded(Image.fromarray(cells))).dhash == 0xFF_00_01_00_00_00_00_00


def slow_frequency(pixels: np.ndarray, row: int, column: int) -> float:
    steps = (2 * np.arange(64) + 1) * np.pi / 128
    return float(np.cos(row * steps) @ pixels.astype(np.float64) @ np.cos(column * steps))


def test_phash_is_the_sign_of_a_plain_cosine_transform_about_its_median() -> None:
    for number in range(5):
        pixels = np.random.Generator(np.random.Philox(key=number)).integers(0, 256, (64, 64)).astype(np.uint8)
        frequencies = np.array([[slow_frequency(pixels, row, column) for column in range(16)] for row in range(16)])
        median = np.median(frequencies)
        bits = np.unpackbits(np.frombuffer(measure(encoded(Image.fromarray(pixels))).phash, np.uint8)).reshape(16, 16)
        clear = abs(frequencies - median) > 1.0
        assert clear.sum() >= 250
        assert np.array_equal(bits[clear], (frequencies > median)[clear])


def test_hashes_that_imagehash_gives() -> None:
    # imagehash 4.3.2 with Pillow 13.0.0 and scipy 1.17.1: dhash(image), phash(image, hash_size=16).
    measured = measure(encoded(drawing(3)))
    assert f"{measured.dhash:016x}" == "4c6d637363739123"
    assert measured.phash.hex() == "8bae974df2d9f9a4c715718b0d326c3919e70237c7d231848d38f4d979664e21"


def test_plain_pictures_have_one_hash() -> None:
    white, grey = (measure(encoded(Image.new("RGB", (50, 70), colour))) for colour in ["white", "grey"])
    assert white == grey == Measured(50, 70, 0, b"\x80" + bytes(PHASH_BYTES - 1), None)


def test_transparent_pictures_are_on_white() -> None:
    image = drawing(1).convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 200, 300))
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image)
    assert measure(encoded(image)) == measure(encoded(white))
    palette = image.convert("P")
    palette.info["transparency"] = 0
    assert measure(encoded(palette)).unreadable is None


def test_greys_of_16_bits_keep_their_shape() -> None:
    grey = np.asarray(drawing(2).convert("L"))
    assert measure(encoded(Image.fromarray(grey.astype(np.uint16) * 256))) == measure(encoded(Image.fromarray(grey)))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_a_file_cut_short_is_unreadable(form: str) -> None:
    data = encoded(drawing(1), form)
    measured = measure(data[: len(data) // 2])
    assert measured.unreadable
    assert measured == measure(data[: len(data) // 2])
    assert measured[:4] == (0, 0, 0, bytes(PHASH_BYTES))


def test_what_is_no_image_says_so() -> None:
    for data in [b"", b"not an image", b"\x00" * 1000]:
        assert measure(data) == Measured(0, 0, 0, bytes(PHASH_BYTES), "not an image file")
