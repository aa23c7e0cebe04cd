"""Small databases and image archives for tests, in danbooru2023's form."""

import io
import sqlite3
import subprocess
import sys
import tarfile
from contextlib import closing
from pathlib import Path

from repro.errors import StageError
from repro.hashing import MANIFEST_NAME, hash_tree
from repro.outputs import json_text

import polars as pl
import pytest

from booru.metadata.reader import MetadataReader, open_metadata
from booru.metadata.relations import RelationBlocks, blocks_of
from booru.metadata.schema import POST_COLUMNS

POST = {
    "id": 0, "created_at": "2015-03-04T05:06:07.089-05:00", "uploader_id": 1, "source": "", "md5": None, "parent_id": None,
    "has_children": 0, "is_deleted": 0, "is_banned": 0, "pixiv_id": None, "has_active_children": 0, "bit_flags": 0,
    "has_large": 0, "has_visible_children": 0, "image_width": 128, "image_height": 96, "file_size": 1000,
    "file_ext": "webp", "rating": 0, "score": 3, "up_score": 3, "down_score": 0, "fav_count": 5, "file_url": None,
    "large_file_url": None, "preview_file_url": None, "updated_at": "2016-03-04T05:06:07.089-05:00",
}  # fmt: skip
INTEGERS = {name for name, value in POST.items() if isinstance(value, int)} | {"parent_id", "pixiv_id"}
POST_SCHEMA = ", ".join(f'"{n}" {"INTEGER" if n in INTEGERS else "VARCHAR(255)"}' for n in POST)
# (id, name, type): types 0 general, 1 artist, 2 character, 3 copyright, 4 meta.
TAGS = [
    (1, "1girl", 0), (2, "solo", 0), (3, "long_hair", 0), (4, "^_^", 0), (5, "lisa_w", 1), (6, "banned_artist", 1),
    (7, "mika_(lorelei)", 2), (8, "lorelei", 3), (9, "highres", 4), (10, "commentary_request", 4), (11, "loli", 0),
    (12, "oppai_loli", 0), (13, "lollipop", 0),
]  # fmt: skip


def post(post_id: int, **changes) -> dict:
    """A post that every rule keeps, with `changes`; `tags` is a list of tag ids (default: a plain picture)."""
    urls = {"md5": f"{post_id:032x}", "file_url": f"https://example.org/{post_id}.webp"}
    return POST | urls | {"id": post_id, "tags": [3, 1, 7, 8, 5, 2]} | changes


def make_database(path: Path, posts: list[dict], tags=TAGS, post_schema: str = POST_SCHEMA, relations=()) -> Path:
    """Write a metadata database; a post's relations are in the order of its `tags`, `relations` (post, tag) come last."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA synchronous = OFF")
        db.execute(f"CREATE TABLE post ({post_schema}, PRIMARY KEY (id))")
        db.execute("CREATE TABLE tag (id INTEGER NOT NULL PRIMARY KEY, name VARCHAR(255), type INTEGER, popularity INTEGER)")
        db.execute("CREATE TABLE posttagrelation (id INTEGER NOT NULL PRIMARY KEY, post_id INTEGER, tag_id INTEGER)")
        db.execute("CREATE INDEX posttagrelation_post_id ON posttagrelation (post_id)")
        for row in posts:
            db.execute(f"INSERT INTO post ({', '.join(POST)}) VALUES ({', '.join('?' * len(POST))})", [row[n] for n in POST])
            db.executemany("INSERT INTO posttagrelation (post_id, tag_id) VALUES (?, ?)", [(row["id"], t) for t in row["tags"]])
        db.executemany("INSERT INTO posttagrelation (post_id, tag_id) VALUES (?, ?)", relations)
        db.executemany("INSERT INTO tag VALUES (?, ?, ?, 10)", tags)
    db.close()
    return path


def make_tables(folder: Path, database: Path) -> Path:
    """Write the tables of an SQLite database as the data set's other form: one parquet each."""
    folder.mkdir(parents=True)
    with closing(sqlite3.connect(database)) as db:
        for table in ("post", "tag", "posttagrelation"):
            kinds = dict(db.execute("SELECT name, type FROM pragma_table_info(?)", [table]).fetchall())
            schema = {name: pl.Int64 if "INT" in kind else pl.String for name, kind in kinds.items()}
            rows = db.execute(f"SELECT * FROM {table} ORDER BY id").fetchall()
            pl.DataFrame(rows, schema=schema, orient="row").write_parquet(folder / f"{table}.parquet")
    return folder


def all_posts(path: Path, scratch: Path, post_columns=POST_COLUMNS) -> pl.DataFrame:
    """All posts of a metadata database of either form, with their tags."""
    with open_metadata(path, post_columns) as source:
        blocks = blocks_of(source.id_bounds(), source.post_count())
        relations = RelationBlocks(scratch / "relations")
        relations.fill(source, blocks)
        reader = MetadataReader(source, source.tags(), relations)
        return pl.concat([reader.read(block).posts for block in blocks])


def complaint(path: Path) -> str:
    """The one line with which reading this metadata ends; it names the file or folder."""
    with pytest.raises(StageError) as error:
        all_posts(path, path.parent)
    text = str(error.value)
    assert str(path) in text
    assert "\n" not in text
    return text


METADATA_COLUMNS = {
    "id": pl.Int64, "source": pl.String, "created_at": pl.String, "rating": pl.Int8, "score": pl.Int32, "fav_count": pl.Int32,
    "md5": pl.String, "has_file": pl.Boolean, "file_ext": pl.String, "image_width": pl.Int32, "image_height": pl.Int32,
    "is_deleted": pl.Boolean, "is_banned": pl.Boolean, "tags": pl.List(pl.Int32),
}  # fmt: skip
FIRST_PICTURE = 2**52


def metadata_post(post_id: int, **changes) -> dict:
    """A post of the metadata folder, with `changes`: the database's below `FIRST_PICTURE`, else a folder's picture."""
    values = dict.fromkeys(METADATA_COLUMNS) | {
        "id": post_id, "source": "pictures", "rating": 0, "md5": f"{post_id:032x}", "has_file": True, "file_ext": "webp",
        "image_width": 128, "image_height": 96, "tags": [3, 1, 7, 8, 5, 2],
    }  # fmt: skip
    if post_id < FIRST_PICTURE:
        values |= {name: POST[name] for name in ("created_at", "score", "fav_count")}
        values |= {"source": "danbooru", "is_deleted": False, "is_banned": False}
    return values | changes


def make_metadata(path: Path, posts: list[dict], tags=TAGS, revision: str = "a" * 64, shard_posts: int = 200_000) -> Path:
    """Write a folder as ingest_posts does: id-sorted shards of `metadata_post`s, the tag table, the manifest."""
    path.mkdir(parents=True)
    shards: dict[int, list[dict]] = {}
    for row in sorted(posts, key=lambda row: row["id"]):
        number = row["id"] // shard_posts if row["id"] < FIRST_PICTURE else 1_000_000
        shards.setdefault(number, []).append(row)
    for number, rows in shards.items():
        pl.DataFrame(rows, schema=METADATA_COLUMNS).write_parquet(path / f"posts-{number:05d}.parquet")
    tag_columns = {"id": pl.Int64, "name": pl.String, "type": pl.Int64, "popularity": pl.Int64}
    pl.DataFrame([(*tag, 10) for tag in sorted(tags)], schema=tag_columns, orient="row").write_parquet(path / "tags.parquet")
    seal_metadata(path, revision)
    return path


def seal_metadata(path: Path, revision: str | None = "a" * 64) -> None:
    """Write the folder's manifest, also after a test changed its files; without revision where it is None."""
    (path / MANIFEST_NAME).unlink(missing_ok=True)
    manifest = {"content": "0" * 64, "files": hash_tree(path)} | ({"revision": revision} if revision else {})
    (path / MANIFEST_NAME).write_text(json_text(manifest))


def make_tar(path: Path, members: dict[str, bytes]) -> Path:
    """Write an uncompressed tar with these members in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def make_archives(root: Path, ids: list[int]) -> Path:
    """Write data-XXXX.tar archives that hold `<id>.webp` for each id, some bytes each."""
    for bucket in sorted({i % 1000 for i in ids}):
        make_tar(root / f"data-{bucket:04d}.tar", {f"{i}.webp": f"picture {i}".encode() for i in ids if i % 1000 == bucket})
    return root


def run_script(script: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess:
    """Run stages/<script> as its own process with the repository's params.yaml."""
    import os

    command = [sys.executable, f"stages/{script}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


def refusal(script: str, *arguments: object) -> str:
    """The one-line complaint of a run that must end with exit code 2 and without a traceback."""
    result = run_script(script, *arguments)
    assert result.returncode == 2, (result.returncode, result.stdout, result.stderr)
    assert "Traceback" not in result.stderr
    lines = result.stderr.strip().splitlines()
    assert len([line for line in lines if line.startswith(f"{script}:")]) == 1, lines
    return lines[-1]


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
