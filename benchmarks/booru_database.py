"""Make a database like danbooru2023, of any number of posts: HakuBooru's tables with made-up rows.

    python benchmarks/booru_database.py OUT.db --posts 100000 [--seed 1] [--no-index] [--parquet DIR]

The same number of posts and seed give the same rows. 5 % of the posts have their relations at the end of
the table, as posts do whose tags were edited. --parquet writes the same tables as DIR/{post,tag,posttagrelation}.parquet.
"""

import argparse
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
from booru_posts import MOST, draw_ids, make_posts
from booru_tags import HIGHEST_ID, TagDrawer, TagTable, make_tag_table

# As HakuBooru 3b00e14 creates them through peewee.
TABLES = {
    "post": (
        '"id" INTEGER NOT NULL PRIMARY KEY, "created_at" VARCHAR(255) NOT NULL, "uploader_id" INTEGER NOT NULL, '
        '"source" VARCHAR(255) NOT NULL, "md5" VARCHAR(255), "parent_id" INTEGER, "has_children" INTEGER NOT NULL, '
        '"is_deleted" INTEGER NOT NULL, "is_banned" INTEGER NOT NULL, "pixiv_id" INTEGER, '
        '"has_active_children" INTEGER NOT NULL, "bit_flags" INTEGER NOT NULL, "has_large" INTEGER NOT NULL, '
        '"has_visible_children" INTEGER NOT NULL, "image_width" INTEGER NOT NULL, "image_height" INTEGER NOT NULL, '
        '"file_size" INTEGER NOT NULL, "file_ext" VARCHAR(255) NOT NULL, "rating" INTEGER NOT NULL, '
        '"score" INTEGER NOT NULL, "up_score" INTEGER NOT NULL, "down_score" INTEGER NOT NULL, '
        '"fav_count" INTEGER NOT NULL, "file_url" VARCHAR(255), "large_file_url" VARCHAR(255), '
        '"preview_file_url" VARCHAR(255), "updated_at" VARCHAR(255) NOT NULL'
    ),
    "tag": (
        '"id" INTEGER NOT NULL PRIMARY KEY, "name" VARCHAR(255) NOT NULL, "type" INTEGER NOT NULL, "popularity" INTEGER NOT NULL'
    ),
    "posttagrelation": (
        '"id" INTEGER NOT NULL PRIMARY KEY, "post_id" INTEGER NOT NULL, "tag_id" INTEGER NOT NULL,'
        ' FOREIGN KEY ("post_id") REFERENCES "post" ("id"), FOREIGN KEY ("tag_id") REFERENCES "tag" ("id")'
    ),
    "localpost": (
        '"id" INTEGER NOT NULL PRIMARY KEY, "filepath" VARCHAR(255), "latentpath" VARCHAR(255), "post_id" INTEGER NOT NULL,'
        ' FOREIGN KEY ("post_id") REFERENCES "post" ("id")'
    ),
}
NAME_INDEX = 'CREATE UNIQUE INDEX "tag_name" ON "tag" ("name")'
INDEXES = (
    'CREATE INDEX "posttagrelation_post_id" ON "posttagrelation" ("post_id")',
    'CREATE INDEX "posttagrelation_tag_id" ON "posttagrelation" ("tag_id")',
    'CREATE INDEX "localpost_post_id" ON "localpost" ("post_id")',
)
POSTS_AT_ONCE = 30_000
LATE_POSTS = 0.05
CACHE_KIB = 100_000
ROW_GROUPS = {"post": 500_000, "tag": 1_000_000, "posttagrelation": 1_000_000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, metavar="OUT.db")
    parser.add_argument("--posts", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-index", action="store_true", help="no indexes on post_id and tag_id, as the smaller published file")
    parser.add_argument("--parquet", type=Path, metavar="DIR", help="write the tables as parquet, too")
    args = parser.parse_args()
    if not 0 < args.posts <= MOST:
        parser.error(f"--posts {args.posts}: 1 to {MOST}")
    relations = make_database(args.output, args.posts, args.seed, index=not args.no_index, parquet=args.parquet)
    print(f"{args.output}: {args.posts} posts, {relations} relations, {args.output.stat().st_size / 1e6:.0f} MB")


def make_database(path: Path, posts: int, seed: int = 1, index: bool = True, parquet: Path | None = None) -> int:
    """Write the database (and its parquet form) whole or not at all; returns the number of relations."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="parquet-") as pieces:
        outputs: list[SqliteTables | ParquetTables] = [SqliteTables(partial)]
        if parquet:
            outputs.append(ParquetTables(Path(pieces), parquet))
        relations = _write_rows(outputs, posts, seed)
        for output in outputs:
            output.finish(index)
    os.replace(partial, path)
    return relations


def _write_rows(outputs: list, posts: int, seed: int) -> int:
    table = make_tag_table(np.random.default_rng([seed, 0]))
    popularity = np.zeros(HIGHEST_ID + 1, dtype=np.int64)
    relations = 0
    for name, frame in _post_and_relation_frames(table, posts, seed):
        if name == "posttagrelation":
            popularity += np.bincount(frame["tag_id"], minlength=len(popularity))
            frame = frame.select(pl.int_range(relations + 1, relations + frame.height + 1).alias("id"), "post_id", "tag_id")
            relations += frame.height
        for output in outputs:
            output.write(name, frame)
    tags = pl.DataFrame({"id": table.ids, "name": table.names, "type": table.types, "popularity": popularity[table.ids]})
    for output in outputs:
        output.write("tag", tags.sort("id"))
    return relations


def _post_and_relation_frames(table: TagTable, posts: int, seed: int) -> Iterator[tuple[str, pl.DataFrame]]:
    """(table's name, rows) in the order of the tables' ids."""
    drawer = TagDrawer(table)
    ids = draw_ids(np.random.default_rng([seed, 1]), posts)
    late = []
    for number, first in enumerate(range(0, posts, POSTS_AT_ONCE)):
        rng = np.random.default_rng([seed, 2, number])
        some = ids[first : first + POSTS_AT_ONCE]
        yield "post", make_posts(rng, some)
        row, tag = drawer.draw(rng, len(some))
        is_late = (rng.random(len(some)) < LATE_POSTS)[row]
        yield "posttagrelation", pl.DataFrame({"post_id": some[row[~is_late]], "tag_id": tag[~is_late]})
        late.append(pl.DataFrame({"post_id": some[row[is_late]], "tag_id": tag[is_late]}, schema_overrides={"tag_id": pl.Int32}))
    for frame in late:
        yield "posttagrelation", frame.cast(pl.Int64)


class SqliteTables:
    """A new SQLite file, without a journal: a broken run starts anew."""

    def __init__(self, path: Path):
        self._connection = sqlite3.connect(path, isolation_level=None)
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "locking_mode = EXCLUSIVE", f"cache_size = -{CACHE_KIB}"):
            self._connection.execute(f"PRAGMA {pragma}")
        for table, columns in TABLES.items():
            self._connection.execute(f'CREATE TABLE "{table}" ({columns})')
        self._connection.execute("BEGIN")

    def write(self, table: str, frame: pl.DataFrame) -> None:
        places = ", ".join("?" * frame.width)
        rows = zip(*(column.to_list() for column in frame), strict=True)
        self._connection.executemany(f'INSERT INTO "{table}" VALUES ({places})', rows)

    def finish(self, index: bool) -> None:
        for statement in (NAME_INDEX, *(INDEXES if index else ())):
            self._connection.execute(statement)
        self._connection.execute("COMMIT")
        self._connection.close()


class ParquetTables:
    """One parquet file a table; written in pieces, so that memory does not grow with the tables."""

    def __init__(self, pieces: Path, folder: Path):
        self._pieces, self._folder = pieces, folder
        self._count = 0

    def write(self, table: str, frame: pl.DataFrame) -> None:
        (self._pieces / table).mkdir(exist_ok=True)
        frame.write_parquet(self._pieces / table / f"{self._count:08d}.parquet", compression="lz4")
        self._count += 1

    def finish(self, index: bool) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for pieces in sorted(self._pieces.iterdir()):
            rows = pl.scan_parquet(pieces / "*.parquet")
            rows.sink_parquet(
                self._folder / f"{pieces.name}.parquet", row_group_size=ROW_GROUPS[pieces.name], maintain_order=True
            )
            shutil.rmtree(pieces)


if __name__ == "__main__":
    main()
