"""Pictures in an archive with its index, for tests of what the sample's models learn from."""

import io
from pathlib import Path

import numpy as np
from PIL import Image
from tiny_booru import make_tar

from booru.images.indexing import index_here


def blocks(number: int) -> bytes:
    """A picture of coloured blocks, 64x64 or 96x58."""
    draw = np.random.Generator(np.random.PCG64(number))
    height, width = (64, 64) if number % 3 else (96, 58)
    coarse = Image.fromarray(draw.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    coarse.resize((width, height), Image.Resampling.NEAREST).save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def write_dump(folder: Path) -> tuple[Path, Path]:
    """Twelve pictures; the folders of their index and of their archive."""
    files = {1000 * i: blocks(i) for i in range(12)}
    make_tar(folder / "images" / "data-0000.tar", {f"{i}.webp": data for i, data in files.items()})
    index_here(folder / "images", folder / "image_index")
    return folder / "image_index", folder / "images"
