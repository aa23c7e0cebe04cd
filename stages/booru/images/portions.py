"""Portions of a list of images: what one worker task works off, and so what a kill can cost a worker.

Where a portion ends is told by the images' own digests (content-defined chunking: Muthitacharoen, Chen and Mazieres 2001,
A low-bandwidth network file system). So an image more or less changes one portion, or parts one, or joins two; the others
keep their names and their files.

The list stands in a file, from which a worker takes a portion's rows in some milliseconds: five million rows as Python
objects, waiting to be sent, would fill several GB.
"""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.outputs import whole_file

import polars as pl

# Images of a portion: on the average, and at most so many times that.
PORTION = 32
LARGEST = 4
# Rows of the list that a worker has to decode to read one.
ROW_GROUP = 4096


@dataclass(frozen=True)
class Portion:
    """Rows `start` to `stop` of the list of images in the file `images`; what is found of them goes into `output`."""

    images: Path
    start: int
    stop: int
    output: Path

    def __len__(self) -> int:
        return self.stop - self.start

    def rows(self) -> list[dict[str, Any]]:
        """The images: the list's columns by name."""
        return pl.scan_parquet(self.images).slice(self.start, len(self)).collect(engine="in-memory").to_dicts()


def portion_starts(images: pl.DataFrame, groups: Sequence[str], mean: int = PORTION) -> list[int]:
    """First rows of the portions of a frame with `sha256` (hexadecimal), none of which has two values in a column of `groups`."""
    first = images["sha256"].str.slice(0, 8).str.to_integer(base=16) % mean == 0
    for column in groups:
        first |= images[column].ne_missing(images[column].shift(1))
    starts: list[int] = []
    for row, is_first in enumerate(first.to_list()):
        if is_first or not starts or row - starts[-1] == LARGEST * mean:
            starts.append(row)
    return starts


def make_portions(
    images: pl.DataFrame,
    folder: Path,
    suffix: str,
    key_columns: Sequence[str],
    groups: Sequence[str] = (),
    mean: int = PORTION,
) -> list[Portion]:
    """Divide a frame of images, and write it as the list in `folder`.

    Args:
        key_columns: what decides the portions' contents beside what names the folder: their outputs are named by it.
        groups: columns of which a portion has one value.
        mean: images of a portion on the average, where nothing else ends it.
    """
    path = folder / "images.parquet"
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        images.rechunk().write_parquet(file, row_group_size=ROW_GROUP, compression="lz4")
    starts = portion_starts(images, groups, mean)
    lines = images.select(pl.concat_str(key_columns, separator=" "))[:, 0]
    portions = []
    for start, stop in itertools.pairwise([*starts, images.height]):
        key = hashlib.sha256("\n".join(lines[start:stop]).encode()).hexdigest()
        portions.append(Portion(path, start, stop, folder / key[:2] / f"{key}{suffix}"))
    return portions


def unfinished(portions: Sequence[Portion]) -> list[Portion]:
    return [portion for portion in portions if not portion.output.exists()]
