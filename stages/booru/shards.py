"""Folders of id-sorted parquet shards: the form in which the data stages hand posts on.

A shard holds the posts of one block of ids, so that a change in one place changes one file. Beside
the shards stands MANIFEST.json with each file's sha256 and a content digest over the rows, which
stays the same when a new polars writes the same rows into other bytes.
"""

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from repro.errors import StageError
from repro.hashing import check_manifest

import numpy as np
import polars as pl
import polars.selectors as cs

TAGS_FILE = "tags.parquet"


def parquet_bytes(frame: pl.DataFrame) -> bytes:
    """The frame as parquet with fixed row groups and compression; one polars version gives one file."""
    buffer = io.BytesIO()
    frame.rechunk().write_parquet(buffer, row_group_size=65536, compression="zstd", compression_level=1, statistics=True)
    return buffer.getvalue()


def write_frame(path: Path, frame: pl.DataFrame) -> None:
    """Write a frame as parquet. Through Python's own file, so that a full disk is an OSError with a name."""
    path.write_bytes(parquet_bytes(frame))


def row_lines(frame: pl.DataFrame) -> bytes:
    """Canonical text of the rows: one JSON object a line, columns in the frame's order, bytes as hexadecimal digits."""
    buffer = io.BytesIO()
    frame.with_columns(cs.binary().bin.encode("hex")).write_ndjson(buffer)
    return buffer.getvalue()


def values_digest(frame: pl.DataFrame) -> str:
    """sha256 of the frame's values, column by column: of each its name and type, where it is null, and its numbers (floats
    by their bits), its texts or bytes with their lengths, or its lists' lengths and values. Neither chunks nor the file
    format count."""
    digest = hashlib.sha256()
    for column in frame.get_columns():
        _digest_values(digest, column)
    return digest.hexdigest()


def _digest_values(digest: "hashlib._Hash", column: pl.Series) -> None:
    digest.update(f"{column.name} {column.dtype} {len(column)} {column.null_count()}\n".encode())
    if column.null_count():
        digest.update(np.packbits(column.is_null().to_numpy()).tobytes())
    match column.dtype:
        case pl.List():
            _digest_numbers(digest, column.list.len().fill_null(0))
            _digest_values(digest, column.explode(empty_as_null=False, keep_nulls=False).alias("item"))
        case pl.String | pl.Binary:
            values = column.cast(pl.Binary).fill_null(b"")
            _digest_numbers(digest, values.bin.size())
            digest.update(b"".join(values.to_list()))
        case pl.Boolean:
            _digest_numbers(digest, column.fill_null(False).cast(pl.UInt8))
        case kind if kind.is_integer():
            _digest_numbers(digest, column.fill_null(0))
        case pl.Float32 | pl.Float64:
            _digest_numbers(digest, column.fill_null(0.0))
        case kind:
            raise TypeError(f"column {column.name}: values of {kind} have no digest")


def _digest_numbers(digest: "hashlib._Hash", numbers: pl.Series) -> None:
    """The numbers in their own width, the lowest byte first."""
    values = numbers.to_numpy()
    digest.update(np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")))


class Shard(NamedTuple):
    """What a written shard adds to its folder: its number, its rows and the digest of their values."""

    number: int
    rows: int
    digest: str


def write_shard(folder: Path, prefix: str, number: int, frame: pl.DataFrame) -> Shard:
    """Write `<prefix>-<number>.parquet`; rows sorted by `id` without ties."""
    write_frame(folder / shard_name(prefix, number), frame)
    return Shard(number, frame.height, values_digest(frame))


def shard_name(prefix: str, number: int) -> str:
    return f"{prefix}-{number:05d}.parquet"


class ShardWriter:
    """Writes `<prefix>-<number>.parquet` into a folder that is being made, and digests the rows shard by shard."""

    def __init__(self, folder: Path, prefix: str):
        self._folder, self._prefix = folder, prefix
        self._digest = hashlib.sha256()
        self.rows = 0

    def write(self, number: int, frame: pl.DataFrame) -> None:
        """Write one shard; shards come in the order of their ids."""
        self.add(write_shard(self._folder, self._prefix, number, frame))

    def add(self, shard: Shard) -> None:
        """Count a shard in that `write_shard` wrote, perhaps in another process; shards come in the order of their ids."""
        self._digest.update(f"{shard.number} {shard.rows} {shard.digest}\n".encode())
        self.rows += shard.rows

    def write_table(self, name: str, frame: pl.DataFrame) -> None:
        """Write a table beside the shards; its rows belong to the content digest."""
        write_frame(self._folder / name, frame)
        self._digest.update(f"{name} {values_digest(frame)}\n".encode())

    def write_tags(self, tags: pl.DataFrame) -> None:
        """Write tags.parquet beside the shards."""
        self.write_table(TAGS_FILE, tags)

    def content_digest(self) -> str:
        return self._digest.hexdigest()


def shard_files(folder: Path, prefix: str) -> list[Path]:
    """The folder's shards in the order of their ids.

    Raises:
        StageError: no folder, no manifest, a file that is missing or changed, or no shard of this prefix.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise StageError(f"{folder}: no such folder; make it with the stage that writes it")
    check_manifest(folder)
    files = sorted(folder.glob(f"{prefix}-*.parquet"), key=shard_number)
    if not files:
        raise StageError(f"{folder}: no {prefix}-*.parquet in it; is it the folder of another stage?")
    return files


def numbered_frames(files: list[Path], columns: list[str] | None = None) -> Iterator[tuple[int, pl.DataFrame]]:
    """(number in the file's name, frame) of each shard, one in memory at a time."""
    for file in files:
        yield shard_number(file), pl.read_parquet(file, columns=columns)


def shard_number(file: Path) -> int:
    """The number in a shard's name."""
    return int(file.stem.rsplit("-", 1)[1])


def read_tags(folder: Path) -> pl.DataFrame:
    """tags.parquet of a posts folder: id, name, type, popularity; sorted by id."""
    path = Path(folder) / TAGS_FILE
    if not path.exists():
        raise StageError(f"{path}: missing; make this folder again with the stage that writes it")
    return pl.read_parquet(path)
