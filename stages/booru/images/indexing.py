"""Making the image index: archives and picture folders are read in pieces, the pieces joined to id-sorted shards.

What is read is kept in a folder of pieces, one for each archive and each portion of a folder's pictures. A piece is named
by what shows that its files are unchanged between two runs: name, size and time of the last change (mtime_ns).
This serves only to go on with an index that was interrupted, and to read nothing but the new and changed
archives when some were added; afterwards what proves an image unchanged is its sha256, checked at
every read. Archives are never hashed whole again.
"""

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

from repro.errors import StageError
from repro.hashing import sha256_json, write_manifest
from repro.outputs import whole_file, whole_folder

import polars as pl

from booru.images.archives import FOLDER_SHARD, INDEX_PREFIX, SHARD_IDS, SHARD_ROWS
from booru.images.folder_scan import Picture, Strays, find_pictures, portions, read_pictures
from booru.images.image_rows import ImageRow, rows_frame
from booru.images.tars import archive_names, is_update, scan_archive
from booru.shards import ShardWriter

PASSED_OVER_FILE = "passed_over.parquet"
PASSED_OVER_SCHEMA = {"id": pl.Int64, "archive": pl.String, "member": pl.String, "reason": pl.String}
SAME_BYTES = "the same bytes stand before it"
MAIN_STANDS = "a main archive has the post"
EARLIER_UPDATE = "an earlier update has the post"
# Rows of a row group of a piece: a block of ids then reads little more than its own rows of each archive.
PIECE_ROW_GROUP = 256


@dataclass(frozen=True)
class ArchiveTask:
    """An archive to read into `piece`."""

    root: Path
    name: str
    size: int
    mtime_ns: int
    piece: Path

    def rows(self) -> Iterator[ImageRow]:
        yield from scan_archive(self.root, self.name)
        if _status(self.root / self.name) != (self.size, self.mtime_ns):
            raise StageError(f"{self.root / self.name}: changed while it was read; run again when nothing writes to it")


@dataclass(frozen=True)
class PicturesTask:
    """A portion of the folders' pictures to read into `piece`; `size` is their bytes."""

    root: Path
    pictures: list[Picture]
    size: int
    piece: Path

    def rows(self) -> Iterator[ImageRow]:
        return read_pictures(self.root, self.pictures)


@dataclass(frozen=True)
class Plan:
    """What an index is made of; archives stand in the order in which the first wins, portions in that of their ids."""

    root: Path
    archives: list[ArchiveTask]
    portions: list[PicturesTask]
    strays: Strays

    @property
    def tasks(self) -> list[ArchiveTask | PicturesTask]:
        return [*self.archives, *self.portions]


@dataclass
class Counts:
    """What an index holds."""

    images: int = 0
    pictures: int = 0
    without_sidecar: int = 0
    unreadable: int = 0
    passed_over: int = 0


def plan_index(root: Path, pieces: Path) -> Plan:
    """Look for archives and pictures below `root`; `pieces` is the folder in which what is read is kept.

    Raises:
        StageError: nothing there, or names that are not to be; names the file.
    """
    root = Path(root)
    archives = [_archive_task(root, name, pieces) for name in archive_names(root)]
    pictures, strays = find_pictures(root)
    if not archives and not pictures.height:
        raise StageError(
            f"{root}: neither data-<number>.tar nor a folder of pictures in it; --images names the folder that holds them"
        )
    return Plan(root, archives, [_pictures_task(root, portion, pieces) for portion in portions(pictures)], strays)


def read_piece(task: ArchiveTask | PicturesTask) -> int:
    """Read a task's images into its piece; returns their files' bytes.

    Raises:
        StageError: as `scan_archive` and `read_pictures`, and for an archive that has a post twice with different bytes.
    """
    rows = rows_frame(task.rows())
    if isinstance(task, ArchiveTask):
        choose(task.root, rows, [task.name])  # an error that can be told now is not told after all other archives
    with whole_file(task.piece) as path:
        _write_rows(path, rows)
    return task.size


def index_here(root: Path, folder: Path) -> Counts:
    """Make an index in this process, from nothing and leaving nothing but `folder`."""
    with TemporaryDirectory() as pieces, whole_folder(folder) as target:
        plan = plan_index(root, Path(pieces))
        for task in plan.tasks:
            read_piece(task)
        return write_index(target, plan)


def write_index(folder: Path, plan: Plan) -> Counts:
    """Join the plan's pieces to the shards, passed_over.parquet and the manifest, one block of ids in memory at a time.

    Raises:
        StageError: a post that two main archives hold with different bytes, or no image at all.
    """
    counts, passed_over = Counts(), [pl.DataFrame(schema=PASSED_OVER_SCHEMA)]
    shards = ShardWriter(folder, INDEX_PREFIX)
    names = [task.name for task in plan.archives]
    for number, rows in _blocks([task.piece for task in plan.archives]):
        rows, others = choose(plan.root, rows, names)
        shards.write(number, rows)
        passed_over.append(others)
        counts.images += rows.height
        counts.unreadable += rows["unreadable"].count()
    for number, rows in enumerate(_runs([task.piece for task in plan.portions]), start=FOLDER_SHARD):
        shards.write(number, rows)
        counts.pictures += rows.height
        counts.unreadable += rows["unreadable"].count()
        counts.without_sidecar += rows["sidecar"].null_count()
    if not shards.rows:
        raise StageError(f"{plan.root}: its archives are all empty; there is no image to index")
    others = pl.concat(passed_over)
    counts.passed_over = others.height
    shards.write_table(PASSED_OVER_FILE, others)
    write_manifest(folder, shards.content_digest())
    return counts


def choose(root: Path, rows: pl.DataFrame, archives: list[str]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Where a post is there more than once, the image that stands, and those that are passed over.

    A main archive's image beats an update's, as in HakuBooru; among updates the first in the order of `archives` wins
    (HakuBooru's choice hangs on the file system); of the same bytes in one archive or in two main ones the first stands.

    Returns:
        The index's rows by id, and the others (columns of `PASSED_OVER_SCHEMA`) by id and the order of the archives.

    Raises:
        StageError: one archive or two main ones hold a post with different bytes; names both members.
    """
    order = pl.DataFrame({"archive": archives, "order": range(len(archives)), "update": list(map(is_update, archives))})
    ranked = rows.join(order, on="archive", how="left", maintain_order="left").sort("id", "order", "offset")
    again = (pl.col("id") == pl.col("id").shift(1)).fill_null(False)
    _refuse_different_bytes(root, ranked)
    first = ranked.filter(~again)
    winner = first.select("id", "update", winner="archive")
    others = ranked.filter(again).join(winner, on="id", how="left", maintain_order="left", suffix="_winner")
    reason = (
        pl.when(pl.col("update") & ~pl.col("update_winner"))
        .then(pl.lit(MAIN_STANDS))
        .when(pl.col("update") & (pl.col("archive") != pl.col("winner")))
        .then(pl.lit(EARLIER_UPDATE))
        .otherwise(pl.lit(SAME_BYTES))
    )
    return first.select(rows.columns), others.with_columns(reason=reason).select(list(PASSED_OVER_SCHEMA))


def _refuse_different_bytes(root: Path, ranked: pl.DataFrame) -> None:
    following = pl.all().shift(-1)
    same_kind = (pl.col("archive") == pl.col("archive").shift(-1)) | ~(pl.col("update") | pl.col("update").shift(-1))
    differs = (pl.col("id") == pl.col("id").shift(-1)) & same_kind & (pl.col("sha256") != pl.col("sha256").shift(-1))
    pair = ranked.select("id", "archive", "member", following.name.prefix("other_")).filter(ranked.select(differs).to_series())
    if pair.height:
        row = pair.row(0, named=True)
        raise StageError(
            f"{root}: post {row['id']} is there twice with different bytes: {row['archive']} member '{row['member']}'"
            f" and {row['other_archive']} member '{row['other_member']}'; remove one of them"
        )


def _blocks(pieces: list[Path]) -> Iterator[tuple[int, pl.DataFrame]]:
    """(number of the block of ids, all rows of the archives' pieces in it), by number."""
    having: dict[int, list[Path]] = {}
    for piece in pieces:
        for number in (pl.read_parquet(piece, columns=["id"])["id"] // SHARD_IDS).unique():
            having.setdefault(number, []).append(piece)
    for number in sorted(having):
        block = pl.col("id").is_between(number * SHARD_IDS, (number + 1) * SHARD_IDS - 1)
        yield number, pl.scan_parquet(having[number]).filter(block).collect(engine="in-memory")


def _runs(pieces: list[Path]) -> Iterator[pl.DataFrame]:
    """The rows of the portions, which follow one another by id, in runs of `SHARD_ROWS`."""
    held: list[pl.DataFrame] = []
    for frame in chain.from_iterable(pl.read_parquet(piece).iter_slices(SHARD_ROWS) for piece in pieces):
        held.append(frame)
        if sum(part.height for part in held) >= SHARD_ROWS:
            rows = pl.concat(held)
            yield rows[:SHARD_ROWS]
            held = [rows[SHARD_ROWS:]]
    rest = pl.concat(held) if held else pl.DataFrame()
    if rest.height:
        yield rest


def _write_rows(path: Path, rows: pl.DataFrame) -> None:
    buffer = io.BytesIO()
    rows.write_parquet(buffer, row_group_size=PIECE_ROW_GROUP, compression="zstd", compression_level=1, statistics=True)
    path.write_bytes(buffer.getvalue())  # Python's own file, so that a full disk is an OSError


def _status(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _archive_task(root: Path, name: str, pieces: Path) -> ArchiveTask:
    size, mtime_ns = _status(root / name)
    return ArchiveTask(root, name, size, mtime_ns, _piece(pieces, [name, size, mtime_ns]))


def _pictures_task(root: Path, pictures: list[Picture], pieces: Path) -> PicturesTask:
    return PicturesTask(root, pictures, sum(picture.size for picture in pictures), _piece(pieces, [list(p) for p in pictures]))


def _piece(pieces: Path, proof: list) -> Path:
    return pieces / f"{sha256_json(proof)}.parquet"
