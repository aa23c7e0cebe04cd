"""Images by post: the index that says where each image's bytes lie, and the reader that checks them against it.

The index is a folder of id-sorted shards, made once by stages/index_images.py. It is what the
pipeline tracks instead of the archives; what proves an image unchanged from then on is its sha256,
which is checked at every read.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from repro.errors import StageError

import polars as pl

from booru.shards import numbered_frames, shard_files, shard_number

INDEX_PREFIX = "images"
# Ids of one shard of posts: shard number = id // SHARD_IDS.
SHARD_IDS = 200_000
# Number of the first shard of folder pictures, whose ids are spread over all of 2^52..2^53: runs of SHARD_ROWS rows.
FOLDER_SHARD = 1_000_000
SHARD_ROWS = 200_000
INDEX_SCHEMA = {
    "id": pl.Int64,
    "archive": pl.String,
    "member": pl.String,
    "offset": pl.Int64,
    "size": pl.Int64,
    "sha256": pl.String,
    "width": pl.Int32,
    "height": pl.Int32,
    "dhash": pl.UInt64,
    "phash": pl.Binary,
    "unreadable": pl.String,  # why the image cannot be decoded; null: it can
    "sidecar_file": pl.String,
    "sidecar": pl.String,
}
# Where an image's bytes lie, and which bytes they are: what ImageArchives.read needs.
PLACE_COLUMNS = ("archive", "member", "offset", "size", "sha256")


class ImageIndex:
    """The index folder, read in pieces; its shards are checked against its manifest when it is opened.

    Raises:
        StageError: no such folder, a shard that is missing or changed, or other columns than an image index has.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        if self.path.is_file():
            raise StageError(f"{self.path}: a file, but an image index is a folder; make it with stages/index_images.py")
        if not self.path.is_dir():
            raise StageError(f"{self.path}: no such image index; stages/index_images.py makes it")
        self._shards = shard_files(self.path, INDEX_PREFIX)
        for shard in self._shards:
            _check_schema(shard)

    def ids(self) -> pl.Series:
        """Ids of all images, ascending."""
        ids = self.frame(["id"])["id"]
        if not (ids[1:] > ids[:-1]).all():
            raise StageError(f"{self.path}: ids are not ascending and unique; make it again with stages/index_images.py")
        return ids

    def frame(self, columns: Sequence[str]) -> pl.DataFrame:
        """These columns of all images, in the order of their ids."""
        return pl.concat([pl.read_parquet(shard, columns=list(columns)) for shard in self._shards]).select(columns)

    def folder_frames(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """These columns of the folder pictures, shard by shard in the order of their ids."""
        of_folders = [shard for shard in self._shards if shard_number(shard) >= FOLDER_SHARD]
        for _, frame in numbered_frames(of_folders, list(columns)):
            yield frame.select(columns)

    def join_to(self, posts: pl.DataFrame, columns: Sequence[str] = PLACE_COLUMNS) -> pl.DataFrame:
        """The posts that are in the index, in their order, with these columns of it behind their own.

        Only the shards, and of them the row groups, in which the posts' ids lie are read.
        """
        wanted = ["id", *columns]
        empty = pl.DataFrame(schema={name: INDEX_SCHEMA[name] for name in wanted})
        rows = pl.concat([empty, *self._rows_of(posts["id"], wanted)])
        return posts.join(rows, on="id", how="inner", maintain_order="left", validate="1:1")

    def _rows_of(self, ids: pl.Series, columns: list[str]) -> Iterator[pl.DataFrame]:
        for shard, first, last in self._spans:
            inside = ids.filter(ids.is_between(first, last))
            if inside.len():
                span = pl.col("id").is_between(inside.min(), inside.max())
                rows = pl.scan_parquet(shard).filter(span).select(columns).collect(engine="in-memory")
                yield rows.filter(pl.col("id").is_in(inside.implode()))

    @cached_property
    def _spans(self) -> list[tuple[Path, int, int]]:
        """(file, first id, last id) of each shard."""
        spans = []
        for shard in self._shards:
            ids = pl.read_parquet(shard, columns=["id"])["id"]
            spans.append((shard, ids.min(), ids.max()))
        return spans


def _check_schema(shard: Path) -> None:
    try:
        schema = pl.read_parquet_schema(shard)
    except pl.exceptions.PolarsError:
        raise StageError(f"{shard}: not a parquet file; stages/index_images.py makes the image index") from None
    for name, kind in INDEX_SCHEMA.items():
        if schema.get(name) != kind:
            found = f"is {schema[name]}" if name in schema else "is missing"
            raise StageError(f"{shard}: column {name} {found}, expected {kind}; make it with stages/index_images.py")


class ImageArchives:
    """Reads images from the archives and picture folders below `root` and checks each against its row of the index."""

    def __init__(self, root: Path):
        self.root = Path(root)
        if not self.root.is_dir():
            raise StageError(f"{self.root}: no such folder of image archives (set runtime.image_root or IMAGE_ROOT)")

    def read(self, row: Mapping[str, Any]) -> bytes:
        """The image file's bytes.

        Args:
            row: id, archive, offset, size and sha256 of the image, as in the index.

        Raises:
            StageError: the archive is missing or cut short, or holds other bytes than were indexed.
        """
        path = self.root / row["archive"]
        try:
            with open(path, "rb") as file:
                file.seek(row["offset"])
                data = file.read(row["size"])
        except FileNotFoundError:
            raise StageError(
                f"{path}: missing, needed for post {row['id']}; fetch it, or set runtime.image_root to where the archives are"
            ) from None
        if len(data) != row["size"]:
            raise StageError(f"{path}: cut short, it ends before the image of post {row['id']}; fetch it again")
        if hashlib.sha256(data).hexdigest() != row["sha256"]:
            raise StageError(
                f"{path}: the image of post {row['id']} is not the one that was indexed; fetch the archive again,"
                " or index it again with stages/index_images.py and filter anew"
            )
        return data
