"""Pictures inside of the page: data URIs, as small as they can be without harm."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup
from PIL import Image

from reporting.evaluation import Plot

# Quality and 4:4:4 colour at which lettering and lines of drawings stay clean.
JPEG = {"format": "JPEG", "quality": 88, "subsampling": 0, "optimize": False, "progressive": False}
# All sheets together may take this much, before base64's third more; where they take more, they are made narrower step by step.
SHEET_BYTES = 10_500_000
SHEET_WIDTHS = (None, 1600, 1280, 960, 720)
# A drawing of thousands of points is smaller as pixels.
SVG_BYTES = 400_000
# Quotient of width and height from which a plot takes the page's whole width.
WIDE = 1.8


def data_uri(content: bytes, kind: str) -> Markup:
    return Markup(f"data:image/{kind};base64,{base64.b64encode(content).decode()}")


def narrowed(image: Image.Image, width: int | None) -> Image.Image:
    """The picture at this width, if it is wider."""
    if width is None or image.width <= width:
        return image
    return image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)


def picture(path: Path, width: int | None = None) -> tuple[bytes, str]:
    """(bytes, kind) of a PNG: the file itself, or the picture as JPEG or narrowed where that is smaller."""
    as_it_is = path.read_bytes()
    with Image.open(io.BytesIO(as_it_is)) as opened:
        jpeg = io.BytesIO()
        narrowed(opened.convert("RGB"), width).save(jpeg, **JPEG)
    return (as_it_is, "png") if len(as_it_is) <= len(jpeg.getvalue()) else (jpeg.getvalue(), "jpeg")


def picture_uri(path: Path) -> Markup:
    return data_uri(*picture(path))


def pictures_within(paths: Sequence[Path], width: int | None, limit: int | None) -> dict[Path, tuple[bytes, str]] | None:
    """The pictures at this width; None as soon as they take more than `limit` bytes."""
    found, taken = {}, 0
    for path in paths:
        found[path] = picture(path, width)
        taken += len(found[path][0])
        if limit is not None and taken > limit:
            return None
    return found


def sheet_uris(paths: Sequence[Path]) -> dict[Path, Markup]:
    """Data URIs of all sheets, at the greatest width at which they fit into SHEET_BYTES, else at the smallest."""
    fitting = (pictures_within(paths, width, SHEET_BYTES) for width in SHEET_WIDTHS)
    pictures = next(filter(None, fitting), None) or pictures_within(paths, SHEET_WIDTHS[-1], None)
    return {path: data_uri(content, kind) for path, (content, kind) in pictures.items()}


def is_wide(plot: Plot) -> bool:
    """Whether a plot is of several side by side."""
    with Image.open(plot.png) as image:
        return image.width > WIDE * image.height


def plot_uri(plot: Plot) -> Markup:
    """A plot as a drawing, sharp at every size; as pixels where the drawing is missing or large."""
    if plot.svg is not None and plot.svg.stat().st_size <= SVG_BYTES:
        return data_uri(plot.svg.read_bytes(), "svg+xml")
    return data_uri(plot.png.read_bytes(), "png")
