"""The tables and columns of danbooru2023's metadata that are read, whichever file format they come in.

The schema is that of HakuBooru (revision 3b00e14). Revisions of the data set differ in other columns (tag counts and
texts until the middle of 2024, updated_at since): those are not read, so that all revisions can be.
"""

from collections.abc import Sequence
from typing import NamedTuple

from repro.errors import StageError

import polars as pl


class Column(NamedTuple):
    """A column by its name; `nullable` ones may lack values, `optional` ones may be missing and are then null."""

    name: str
    integer: bool
    nullable: bool = False
    optional: bool = False

    def dtype(self) -> type[pl.DataType]:
        return pl.Int64 if self.integer else pl.String


# Where the numbers of image folders' shards begin, times the ids of the smallest shard.
END_OF_POST_IDS = 50_000_000_000
# What HakuBooru's rules need of a post; where a value of these is missing the filter says so of the post.
CAPTION_COLUMNS = (
    Column("id", integer=True),
    Column("created_at", integer=False, nullable=True),
    Column("rating", integer=True, nullable=True),
    Column("fav_count", integer=True, nullable=True),
)
POST_COLUMNS = (
    *CAPTION_COLUMNS,
    Column("score", integer=True, nullable=True),
    Column("md5", integer=False, nullable=True),
    Column("file_url", integer=False, nullable=True),
    Column("file_ext", integer=False, nullable=True),
    Column("image_width", integer=True, nullable=True),
    Column("image_height", integer=True, nullable=True),
    Column("is_deleted", integer=True, nullable=True),
    Column("is_banned", integer=True, nullable=True),
)
TAG_COLUMNS = (
    Column("id", integer=True),
    Column("name", integer=False),
    Column("type", integer=True),
    Column("popularity", integer=True, nullable=True, optional=True),
)
RELATION_COLUMNS = (Column("id", integer=True), Column("post_id", integer=True), Column("tag_id", integer=True))
TABLES = ("post", "tag", "posttagrelation")
EXPECTED = f"danbooru2023's tables {', '.join(TABLES)}"


def schema_of(post_columns: Sequence[Column]) -> dict[str, Sequence[Column]]:
    """{table: columns that are read} for a reader that wants these columns of a post."""
    return dict(zip(TABLES, (post_columns, TAG_COLUMNS, RELATION_COLUMNS), strict=True))


def check_id_bounds(first: int, last: int, where: str) -> tuple[int, int]:
    """Return the lowest and the highest id of a post after checking that there are shards for them.

    Raises:
        StageError: names the post.
    """
    for number in (first, last):
        if not 0 <= number < END_OF_POST_IDS:
            raise StageError(f"{where}: the id of post {number} is outside 0..{END_OF_POST_IDS - 1}")
    return first, last
