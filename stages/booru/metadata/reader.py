"""Posts with their tags from the metadata, a block of ids at a time: the form in which all later stages have them.

Columns of a post: id i64, source (str, "danbooru" or an image folder's name), created_at str, rating i8, score i32,
fav_count i32, md5 str, has_file bool (the post has an md5 and a URL: gold-only posts have not), file_ext str,
image_width i32, image_height i32, is_deleted bool, is_banned bool, tags List[i32] (tag ids in the order of
posttagrelation.id). Where the metadata has no value there is null.
"""

from dataclasses import dataclass
from pathlib import Path

from repro.errors import StageError

import numpy as np
import polars as pl

from booru.lists import lists_of
from booru.metadata.database import BooruDatabase
from booru.metadata.relations import Block, RelationBlocks
from booru.metadata.schema import POST_COLUMNS, Column
from booru.metadata.tables import BooruTables
from booru.tags import by_tag_id

DATABASE_SOURCE = "danbooru"
POST_SCHEMA = {
    "id": pl.Int64, "source": pl.String, "created_at": pl.String, "rating": pl.Int8, "score": pl.Int32, "fav_count": pl.Int32,
    "md5": pl.String, "has_file": pl.Boolean, "file_ext": pl.String, "image_width": pl.Int32, "image_height": pl.Int32,
    "is_deleted": pl.Boolean, "is_banned": pl.Boolean, "tags": pl.List(pl.Int32),
}  # fmt: skip


def open_metadata(path: Path, post_columns: tuple[Column, ...] = POST_COLUMNS) -> BooruDatabase | BooruTables:
    """The metadata at `path`: an SQLite file, or a folder with one parquet a table.

    Raises:
        StageError: neither of them, or another schema.
    """
    return BooruTables(path, post_columns) if Path(path).is_dir() else BooruDatabase(path, post_columns)


@dataclass(frozen=True)
class Tagged:
    """A block's posts with `tags`, and how many relations were to posts or tags that the metadata lacks."""

    posts: pl.DataFrame
    orphans: int


class MetadataReader:
    """Reads blocks of posts with their tags, whose relations were sorted into blocks before."""

    def __init__(self, source: BooruDatabase | BooruTables, tags: pl.DataFrame, relations: RelationBlocks):
        self.source, self.relations = source, relations
        self._known = by_tag_id(tags, np.ones(tags.height, dtype=bool), default=False)

    def read(self, block: Block) -> Tagged:
        """The block's posts, sorted by id, in the source's columns and `tags`.

        Relations to posts or tags that are not there are dropped, as HakuBooru's inner join does.
        """
        posts = self.source.posts(block.first, block.last)
        places, tags = self.relations.read(block)
        row = _rows_of_places(posts["id"].to_numpy() - block.first, places)
        fits = (row >= 0) & (tags >= 0) & (tags < len(self._known))
        fits[fits] = self._known[tags[fits]] if not fits.all() else self._known[tags]
        if not fits.all():
            row, tags = row[fits], tags[fits]
        lists = lists_of(row, pl.Series(tags), posts.height).cast(pl.List(pl.Int32))
        return Tagged(posts.with_columns(tags=lists), len(places) - len(row))


def _rows_of_places(posts: np.ndarray, places: np.ndarray) -> np.ndarray:
    """For each place, ascending, its row (i32) in `posts`, -1 where it is not there."""
    if not len(posts) or not len(places):
        return np.full(len(places), -1, dtype=np.int32)
    starts = np.flatnonzero(np.diff(places, prepend=-1))
    there = places[starts]
    row = np.minimum(np.searchsorted(posts, there), len(posts) - 1)
    row = np.where(posts[row] == there, row, -1).astype(np.int32)
    return np.repeat(row, np.diff(starts, append=len(places)))


def to_posts(tagged: pl.DataFrame, where: str) -> pl.DataFrame:
    """Posts in the columns of POST_SCHEMA, from those of the metadata's post table.

    Raises:
        StageError: a number that is too large for its column; names post and column.
    """
    has_file = pl.col("md5").fill_null("").ne("") & pl.col("file_url").fill_null("").ne("")
    for name in ("score", "fav_count", "image_width", "image_height"):
        limit = np.iinfo(np.int32).max
        bad = tagged.filter(~pl.col(name).is_between(-limit, limit)).head(1)
        if bad.height:
            raise StageError(f"{where}: post.{name}: post {bad['id'][0]} holds {bad[name][0]}, expected a number of 32 bits")
    columns = tagged.with_columns(
        source=pl.lit(DATABASE_SOURCE),
        has_file=has_file,
        is_deleted=pl.col("is_deleted") != 0,
        is_banned=pl.col("is_banned") != 0,
    )
    return columns.select(pl.col(name).cast(dtype) for name, dtype in POST_SCHEMA.items())


def size_of(path: Path) -> int:
    """Bytes of the metadata's file or files."""
    path = Path(path)
    return sum(file.stat().st_size for file in path.glob("*.parquet")) if path.is_dir() else path.stat().st_size
