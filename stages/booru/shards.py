"""Folders of id-sorted parquet shards: the form in which the data stages hand posts on.

A shard holds the posts of one block of ids, so that a change in one place changes one file. Beside
the shards stands MANIFEST.json with each file's sha256 and a content digest over the rows, which
stays the same when a new polars writes the same rows into other bytes.
"""

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

from repro.errors import StageError
from repro.hashing import check_manifest

import polars as pl
import polars.selectors as cs

TAGS_FILE = "tags.parquet"


def parquet_bytes(frame: pl.DataFrame) -> bytes:
    """The frame as parquet with fixed row groups and compression; one polars version gives one file."""
    buffer = io.BytesIO()
    frame.rechunk().write_parquet(buffer, row_group_size=65536, compression="zstd", compression_level=3, statistics=True)
    return buffer.getvalue()


def write_frame(path: Path, frame: pl.DataFrame) -> None:
    """Write a frame as parquet. Through Python's own file, so that a full disk is an OSError with a name."""
    path.write_bytes(parquet_bytes(frame))


def row_lines(frame: pl.DataFrame) -> bytes:
    """Canonical text of the rows: one JSON object a line, columns in the frame's order, bytes as hexadecimal digits."""
    buffer = io.BytesIO()
    frame.with_columns(cs.binary().bin.encode("hex")).write_ndjson(buffer)
    return buffer.getvalue()


class ShardWriter:
    """Writes `<prefix>-<number>.parquet` into a folder that is being made, and digests the rows."""

    def __init__(self, folder: Path, prefix: str):
        self._folder, self._prefix = folder, prefix
        self._digest = hashlib.sha256()
        self.rows = 0

    def write(self, number: int, frame: pl.DataFrame) -> None:
        """Write one shard; shards come in the order of their ids, rows sorted by `id` without ties."""
        write_frame(self._folder / f"{self._prefix}-{number:05d}.parquet", frame)
        self._digest.update(row_lines(frame))
        self.rows += frame.height

    def write_table(self, name: str, frame: pl.DataFrame) -> None:
        """Write a table beside the shards; its rows belong to the content digest."""
        write_frame(self._folder / name, frame)
        self._digest.update(row_lines(frame))

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
    files = sorted(folder.glob(f"{prefix}-*.parquet"), key=_number)
    if not files:
        raise StageError(f"{folder}: no {prefix}-*.parquet in it; is it the folder of another stage?")
    return files


def numbered_frames(files: list[Path], columns: list[str] | None = None) -> Iterator[tuple[int, pl.DataFrame]]:
    """(number in the file's name, frame) of each shard, one in memory at a time."""
    for file in files:
        yield _number(file), pl.read_parquet(file, columns=columns)


def _number(file: Path) -> int:
    return int(file.stem.rsplit("-", 1)[1])


def read_tags(folder: Path) -> pl.DataFrame:
    """tags.parquet of a posts folder: id, name, type, popularity; sorted by id."""
    path = Path(folder) / TAGS_FILE
    if not path.exists():
        raise StageError(f"{path}: missing; make this folder again with the stage that writes it")
    return pl.read_parquet(path)
