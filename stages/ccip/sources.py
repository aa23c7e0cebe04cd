"""Pictures to encode: what one is, and the references, which come from the image archives."""

import functools
import io
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.errors import StageError

import polars as pl
from PIL import Image

from booru.images.archives import ImageArchives, ImageIndex
from characters.references import Reference

# What Pillow raises on damaged files, by format and by what is damaged.
UNDECODABLE = (
    EOFError, LookupError, OSError, SyntaxError, TypeError, ValueError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip


@dataclass(frozen=True)
class PictureSource:
    """A picture: what to call it in an error, the sha256 of its file's bytes, and how any process opens it (picklable)."""

    name: str
    sha256: str
    open: Callable[[], Image.Image]


def reference_sources(references: Sequence[Reference], index_folder: Path, image_root: Path) -> list[PictureSource]:
    """The reference posts of each character, character by character.

    Raises:
        StageError: no index, no archives, or a post that the index does not have.
    """
    index = ImageIndex(index_folder)
    archives = ImageArchives(image_root)
    wanted = sorted({post for reference in references for post in reference.posts})
    rows = {row["id"]: row for row in index.join_to(pl.DataFrame({"id": wanted}, schema={"id": pl.Int64})).to_dicts()}
    sources = []
    for reference in references:
        for post in reference.posts:
            if post not in rows:
                raise StageError(f"{index_folder}: post {post}, a reference of {reference.character}, is not in the image index")
            row = rows[post]
            opened = functools.partial(_open_post, archives, reference.character, row)
            sources.append(PictureSource(f"post {post}, a reference of {reference.character}", row["sha256"], opened))
    return sources


def _open_post(archives: ImageArchives, character: str, row: Mapping[str, Any]) -> Image.Image:
    data = archives.read(row)
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except UNDECODABLE as error:
        raise StageError(
            f"{row['archive']}: {row['member']}, a reference of {character}, cannot be decoded ({error});"
            " take the post out of the references or mend the archive"
        ) from None
    return image
