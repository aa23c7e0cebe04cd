"""PNG files whose bytes follow from their pixels."""

from pathlib import Path

from repro.outputs import whole_file

from PIL import Image


def save_png(image: Image.Image, path: Path) -> None:
    """Lossless, without metadata; the compression is fixed so that the bytes are."""
    with whole_file(path) as temporary:
        image.save(temporary, format="PNG", optimize=False, compress_level=6)
