"""The image index's row of one image file, from its bytes: which bytes they are, and what can be seen in them."""

import hashlib
from collections.abc import Iterable
from itertools import islice
from typing import IO, NamedTuple

import polars as pl

from booru.images.archives import INDEX_SCHEMA
from booru.images.image_hashes import PHASH_BYTES, Measured, measure

# Extensions, in lower case, of the files that are decoded.
PICTURE_EXTENSIONS = frozenset({"avif", "bmp", "gif", "jfif", "jpeg", "jpg", "png", "tif", "tiff", "webp"})
CHUNK = 1 << 20
ROWS_AT_ONCE = 50_000


class Place(NamedTuple):
    """Where an image's bytes lie: `size` bytes from `offset` on in the file `archive` (below the root, posix form)."""

    id: int
    archive: str
    member: str
    offset: int
    size: int


class SidecarText(NamedTuple):
    """The text that stands beside a picture of a folder: the file's name and its content."""

    file: str | None
    text: str | None


NO_SIDECAR = SidecarText(None, None)


class ImageRow(NamedTuple):
    """One row of the index, in the order of `INDEX_SCHEMA`."""

    id: int
    archive: str
    member: str
    offset: int
    size: int
    sha256: str
    width: int
    height: int
    dhash: int
    phash: bytes
    unreadable: str | None
    sidecar_file: str | None
    sidecar: str | None


class CutShortError(Exception):
    """A file ends before the bytes that it announced."""


def extension_of(name: str) -> str:
    """What follows the last dot of a file name, in lower case; "" where there is none."""
    _, dot, extension = name.rpartition(".")
    return extension.lower() if dot else ""


def read_row(place: Place, file: IO[bytes], sidecar: SidecarText = NO_SIDECAR) -> ImageRow:
    """Read the next `place.size` bytes of `file`, hash them, and decode them where the member's extension is a picture's.

    What is no picture is read in pieces, since it may be a long film.

    Raises:
        CutShortError: the file ends early.
    """
    extension = extension_of(place.member)
    if extension not in PICTURE_EXTENSIONS:
        return ImageRow(*place, _sha256(file, place.size), *_no_picture(extension), *sidecar)
    data = file.read(place.size)
    if len(data) != place.size:
        raise CutShortError(f"'{place.member}' ends {place.size - len(data)} bytes early")
    return ImageRow(*place, hashlib.sha256(data).hexdigest(), *measure(data), *sidecar)


def _no_picture(extension: str) -> Measured:
    return Measured(0, 0, 0, bytes(PHASH_BYTES), f"not an image ({extension})")


def _sha256(file: IO[bytes], size: int) -> str:
    digest, left = hashlib.sha256(), size
    while left:
        chunk = file.read(min(CHUNK, left))
        if not chunk:
            raise CutShortError(f"the file ends {left} bytes early")
        digest.update(chunk)
        left -= len(chunk)
    return digest.hexdigest()


def frame_of(rows: Iterable[tuple], schema: dict[str, pl.DataType]) -> pl.DataFrame:
    """Rows as a frame; few of them are Python's objects at a time, which take ten times the room."""
    rows = iter(rows)
    frames = [pl.DataFrame(schema=schema)]
    while batch := list(islice(rows, ROWS_AT_ONCE)):
        frames.append(pl.DataFrame(batch, schema=schema, orient="row"))
    return pl.concat(frames)


def rows_frame(rows: Iterable[ImageRow]) -> pl.DataFrame:
    """Rows of the index as a frame, sorted by id and, where an archive has an id twice, by offset."""
    return frame_of(rows, INDEX_SCHEMA).sort("id", "offset")
