"""The dump's form: danbooru2023's schema and archive layout, and bytes that do not depend on when they were written."""

import hashlib
import io
import json
import sqlite3
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from booru.images.archives import INDEX_SCHEMA, ImageIndex
from sample.characters import taught_characters
from sample.dump import write_posts
from sample.pictures import ART
from sample.posts import portrait_post, with_ids

SAMPLE = Path("data/sample")


@pytest.fixture(scope="module")
def few_posts():
    characters = taught_characters()[:2] + taught_characters()[-1:]
    posts = [portrait_post(1, "test", c, c.styles[0] if hasattr(c, "styles") else None, n) for c in characters for n in range(3)]
    return with_ids(posts, [(0, 3_999_999, len(posts))], 1, "test")


def written(folder: Path, posts) -> dict[str, str]:
    folder.mkdir()
    first = min(posts, key=lambda post: post.id)
    write_posts(folder, posts, [(first.id, first.tags[0]), (77, first.tags[0]), (first.id, 123_456)], 1, ART)
    return {
        str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.rglob("*")) if f.is_file()
    }


def test_same_posts_give_the_same_bytes(tmp_path, few_posts):
    assert written(tmp_path / "first", few_posts) == written(tmp_path / "second", list(reversed(few_posts)))


def test_schema_is_that_of_the_published_database(tmp_path, few_posts, golden):
    reference = golden / "captions" / "golden2k.db"
    if not reference.exists():
        pytest.skip(f"{reference} is not here")
    written(tmp_path / "dump", few_posts)

    def columns(path):
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        tables = ("post", "tag", "posttagrelation", "localpost")
        shape = {table: [row[1:4] for row in db.execute(f"PRAGMA table_info({table})")] for table in tables}
        db.close()
        return shape

    assert columns(tmp_path / "dump" / "metadata.db") == columns(reference)


def test_tag_popularity_counts_posts(tmp_path, few_posts):
    written(tmp_path / "dump", few_posts)
    db = sqlite3.connect(tmp_path / "dump" / "metadata.db")
    wrong = db.execute(
        "SELECT name FROM tag WHERE popularity != (SELECT COUNT(DISTINCT post_id) FROM posttagrelation"
        " JOIN post ON post.id = post_id WHERE tag_id = tag.id)"
    ).fetchall()
    assert wrong == []
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


def test_archives_are_plain_ustar_by_id_modulo_1000(tmp_path, few_posts):
    written(tmp_path / "dump", few_posts)
    for path in (tmp_path / "dump" / "images").iterdir():
        with tarfile.open(path) as tar:
            ids = [int(Path(member.name).stem) for member in tar]
            assert ids == sorted(ids)
            assert {i % 1000 for i in ids} == {int(path.stem.removeprefix("data-"))}
            assert {(m.mtime, m.mode, m.uid, m.gid, m.uname, m.gname) for m in tar} == {(0, 0o644, 0, 0, "", "")}


@pytest.fixture(scope="module")
def index():
    return ImageIndex(SAMPLE / "image_index").frame(list(INDEX_SCHEMA))


def test_committed_index_reads_back_every_file(index):
    for row in index.iter_rows(named=True):
        with open(SAMPLE / "images" / row["archive"], "rb") as archive:
            archive.seek(row["offset"])
            assert hashlib.sha256(archive.read(row["size"])).hexdigest() == row["sha256"], row["member"]


def test_committed_pictures_open_except_the_two_broken(index):
    broken = []
    for row in index.iter_rows(named=True):
        with open(SAMPLE / "images" / row["archive"], "rb") as archive:
            archive.seek(row["offset"])
            try:
                Image.open(io.BytesIO(archive.read(row["size"]))).load()
            except OSError:
                broken.append(row["id"])
    assert len(broken) == 2
    assert index.filter(index["unreadable"].is_not_null())["id"].to_list() == broken


def test_committed_sizes_and_digests_stand_in_the_database(index):
    db = sqlite3.connect(f"file:{SAMPLE / 'metadata.db'}?mode=ro", uri=True)
    rows = {i: (size, md5) for i, size, md5 in db.execute("SELECT id, file_size, md5 FROM post")}
    db.close()
    for row in index.iter_rows(named=True):
        with open(SAMPLE / "images" / row["archive"], "rb") as archive:
            archive.seek(row["offset"])
            data = archive.read(row["size"])
        assert rows[row["id"]] == (row["size"], hashlib.md5(data).hexdigest())


def test_committed_references_are_archived(index):
    table = json.loads((SAMPLE / "references.json").read_text())
    archived = set(index["id"])
    for row in table["characters"].values():
        assert set(row["posts"]) <= archived


def test_committed_sample_is_small():
    assert sum(f.stat().st_size for f in SAMPLE.rglob("*") if f.is_file()) < 8_000_000
