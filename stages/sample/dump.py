"""Posts as a dump: metadata.db in danbooru2023's schema, images/data-XXXX.tar by id modulo 1000, image_index/."""

import hashlib
import io
import sqlite3
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from repro.randomness import Stream

from booru.images.indexing import index_here
from sample.pictures import VectorFigure, draw, encode, style_definition
from sample.posts import RATINGS, Post, Relation, Tag, created_at

SCHEMA = """
CREATE TABLE IF NOT EXISTS "post" ("id" INTEGER NOT NULL PRIMARY KEY, "created_at" VARCHAR(255) NOT NULL,
 "uploader_id" INTEGER NOT NULL, "source" VARCHAR(255) NOT NULL, "md5" VARCHAR(255), "parent_id" INTEGER,
 "has_children" INTEGER NOT NULL, "is_deleted" INTEGER NOT NULL, "is_banned" INTEGER NOT NULL, "pixiv_id" INTEGER,
 "has_active_children" INTEGER NOT NULL, "bit_flags" INTEGER NOT NULL, "has_large" INTEGER NOT NULL,
 "has_visible_children" INTEGER NOT NULL, "image_width" INTEGER NOT NULL, "image_height" INTEGER NOT NULL,
 "file_size" INTEGER NOT NULL, "file_ext" VARCHAR(255) NOT NULL, "rating" INTEGER NOT NULL, "score" INTEGER NOT NULL,
 "up_score" INTEGER NOT NULL, "down_score" INTEGER NOT NULL, "fav_count" INTEGER NOT NULL, "file_url" VARCHAR(255),
 "large_file_url" VARCHAR(255), "preview_file_url" VARCHAR(255), "updated_at" VARCHAR(255) NOT NULL);
CREATE TABLE IF NOT EXISTS "tag" ("id" INTEGER NOT NULL PRIMARY KEY, "name" VARCHAR(255) NOT NULL, "type" INTEGER NOT NULL,
 "popularity" INTEGER NOT NULL);
CREATE UNIQUE INDEX "tag_name" ON "tag" ("name");
CREATE TABLE IF NOT EXISTS "posttagrelation" ("id" INTEGER NOT NULL PRIMARY KEY, "post_id" INTEGER NOT NULL,
 "tag_id" INTEGER NOT NULL, FOREIGN KEY ("post_id") REFERENCES "post" ("id"), FOREIGN KEY ("tag_id") REFERENCES "tag" ("id"));
CREATE TABLE IF NOT EXISTS "localpost" ("id" INTEGER NOT NULL PRIMARY KEY, "filepath" VARCHAR(255), "latentpath" VARCHAR(255),
 "post_id" INTEGER NOT NULL, FOREIGN KEY ("post_id") REFERENCES "post" ("id"));
"""
INDEXES = """
CREATE INDEX "posttagrelation_post_id" ON "posttagrelation" ("post_id");
CREATE INDEX "posttagrelation_tag_id" ON "posttagrelation" ("tag_id");
CREATE INDEX "localpost_post_id" ON "localpost" ("post_id");
"""
RENPY = "https://www.renpy.org/"
# Fields of SQLite's file header that count changes and name the library's version (file format, section 1.3).
CHANGE_COUNTER, VALID_FOR, LIBRARY_VERSION = 24, 92, 96


def _source(post: Post) -> str:
    """Where the art came from; empty for what has no picture."""
    figures = post.picture.figures if post.picture else ()
    if not figures:
        return ""
    first = figures[0]
    return style_definition(first.style)["meta"]["source"]["url"] if isinstance(first, VectorFigure) else RENPY


def _row(post: Post, data: bytes | None, seed: int) -> dict[str, Any]:
    """The post's row, before the links to its parent and children."""
    stream = Stream(seed, "sample post row", post.id)
    day = created_at(post.id, stream)
    down = stream.below(3) if post.fav_count < 10 else 0
    up = (post.fav_count * (60 + stream.below(50))) // 100
    md5 = hashlib.md5(data if data is not None else str(post.id).encode(), usedforsecurity=False).hexdigest()
    width, height = (post.picture.width, post.picture.height) if post.picture else (768, 1024)
    size = len(data) if data is not None else 40_000 + stream.below(400_000)
    row = {
        "id": post.id, "created_at": day, "uploader_id": 1 + stream.below(40), "source": _source(post), "md5": md5,
        "parent_id": None, "has_children": 0, "is_deleted": 0, "is_banned": 0, "pixiv_id": None, "has_active_children": 0,
        "bit_flags": 0, "has_large": 0, "has_visible_children": 0, "image_width": width, "image_height": height,
        "file_size": size, "file_ext": "webp", "rating": RATINGS.index(post.rating), "score": up - down, "up_score": up,
        "down_score": -down, "fav_count": post.fav_count, "updated_at": day,
    }  # fmt: skip
    row.update(post.columns)
    name = f"{row['md5']}.{row['file_ext']}"
    for column, folder in (("file_url", "original"), ("large_file_url", "sample"), ("preview_file_url", "preview")):
        url = None if row["md5"] is None else f"https://images.invalid/{folder}/{name[:2]}/{name[2:4]}/{name}"
        row.setdefault(column, url)
    return row


def _link_children(rows: list[dict[str, Any]]) -> None:
    by_id = {row["id"]: row for row in rows}
    for row in rows:
        parent = by_id.get(row["parent_id"])
        if parent is not None:
            parent |= {"has_children": 1, "has_active_children": 1, "has_visible_children": 1}


def _fix_header(path: Path) -> None:
    with open(path, "r+b") as file:
        for position, value in ((CHANGE_COUNTER, 1), (VALID_FOR, 1), (LIBRARY_VERSION, 3_040_001)):
            file.seek(position)
            file.write(value.to_bytes(4, "big"))


def write_database(path: Path, rows: list[dict[str, Any]], tags: dict[int, tuple[Tag, ...]], extra: list[Relation]) -> None:
    """A new database; `tags` = {post id: its tags in relation order}; `extra` relations stand at the end of their table.

    Tag ids count from 1 in the order of first use; a tag that is a number there belongs to no tag. The same rows give the
    same bytes.
    """
    _link_children(rows)
    rows = sorted(rows, key=lambda row: row["id"])
    ids: dict[Tag, int] = {}
    relations = [(row["id"], ids.setdefault(tag, len(ids) + 1)) for row in rows for tag in tags[row["id"]]]
    popularity = Counter(tag_id for _, tag_id in set(relations))
    relations += [(post_id, tag if isinstance(tag, int) else ids[tag]) for post_id, tag in extra]
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript("PRAGMA page_size = 4096; PRAGMA journal_mode = OFF; PRAGMA encoding = 'UTF-8';" + SCHEMA + "BEGIN;")
    columns = [info[1] for info in connection.execute("PRAGMA table_info(post)")]
    marks = ",".join("?" * len(columns))
    connection.executemany(f"INSERT INTO post VALUES ({marks})", [[row[column] for column in columns] for row in rows])
    named = [(tag_id, name, kind, popularity[tag_id]) for (name, kind), tag_id in ids.items()]
    connection.executemany("INSERT INTO tag VALUES (?,?,?,?)", named)
    connection.executemany("INSERT INTO posttagrelation VALUES (?,?,?)", [(n, *pair) for n, pair in enumerate(relations, 1)])
    connection.execute("COMMIT")
    connection.executescript(INDEXES + "VACUUM;")
    connection.close()
    _fix_header(path)


def _member(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, 0, 0o644
    return info


def write_archives(folder: Path, images: Iterable[tuple[int, bytes]]) -> None:
    """data-XXXX.tar files, members `<id>.webp` by ascending id."""
    folder.mkdir(parents=True, exist_ok=True)
    by_tar: dict[int, list[tuple[int, bytes]]] = defaultdict(list)
    for post_id, data in images:
        by_tar[post_id % 1000].append((post_id, data))
    for residue in sorted(by_tar):
        with tarfile.open(folder / f"data-{residue:04d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for post_id, data in sorted(by_tar[residue]):
                tar.addfile(_member(f"{post_id}.webp", len(data)), io.BytesIO(data))


def archived_bytes(post: Post, art: Path) -> bytes | None:
    """The file of a post as it stands in the archives; None where it has none."""
    if post.picture is None:
        return None
    data = encode(post.picture, draw(post.picture, art))
    return {"": data, "truncated": data[: len(data) // 3], "text": b"<html>503 Service Unavailable</html>\n"}[post.damage]


def write_posts(folder: Path, posts: list[Post], extra_relations: list[Relation], seed: int, art: Path) -> None:
    """Draw the posts and write metadata.db, images/ and image_index/ into an existing folder."""
    files = {post.id: archived_bytes(post, art) for post in posts}
    images = {post_id: data for post_id, data in files.items() if data is not None}
    write_archives(folder / "images", images.items())
    index_here(folder / "images", folder / "image_index")
    rows = [_row(post, files[post.id], seed) for post in posts]
    write_database(folder / "metadata.db", rows, {post.id: post.tags for post in posts}, extra_relations)
