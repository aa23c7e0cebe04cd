"""The ingest stage as a process."""

import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from repro.hashing import check_manifest

import polars as pl
import pytest
from live_processes import wait_until_gone
from PIL import Image
from tiny_booru import (
    FIRST_PICTURE,
    METADATA_COLUMNS,
    TAGS,
    folder_bytes,
    make_database,
    make_tables,
    make_tar,
    post,
    refusal,
    run_script,
)

import ingest_posts
from booru.images.indexing import index_here

ANY = ["--set", "ingest.revision=null"]
# Few posts have the widest blocks.
BLOCK = 50_000 * 2**15
# In blocks 0, 1 and 3.
POSTS = [
    post(1), post(2, tags=[2, 2, 99, 1]), post(BLOCK - 1, tags=[], md5=None), post(BLOCK, rating=None, fav_count=None),
    post(3 * BLOCK + 7, is_deleted=1, is_banned=None, tags=[5, 3]),
]  # fmt: skip
# Relations of posts that are not there, in a block with posts, in one without and beyond all blocks, and of unknown tags.
ORPHANS = [(3, 1), (2 * BLOCK, 1), (5 * BLOCK, 2), (2**40, 2), (-1, 2), (1, 2**31)]


@pytest.fixture
def database(tmp_path) -> Path:
    return make_database(tmp_path / "metadata.db", POSTS, relations=ORPHANS)


def change(path: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in ("PRAGMA synchronous = OFF", *statements):
            db.execute(statement)
    return path


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> tuple[Path, dict[str, bytes]]:
    """A database of 31 blocks, and the outputs of an undisturbed run in one process."""
    folder = tmp_path_factory.mktemp("many")
    spread = range(0, 5 * 10**10, 125 * 10**5)
    database = make_database(folder / "m.db", [post(i, tags=[i % 13 + 1, 2, i % 7 + 1]) for i in spread])
    outputs = folder_bytes(ingest(database, folder / "out", "--set", "runtime.processes=1", PYTHONHASHSEED="1"))
    assert len([name for name in outputs if name.startswith("posts-")]) == 31
    return enlarged(database), outputs


def enlarged(path: Path) -> Path:
    """The database with a hole behind it that makes it worth several processes; SQLite passes it over."""
    os.truncate(path, 4 * ingest_posts.BYTES_FOR_A_PROCESS)
    return path


def ingest(database: Path, output: Path, *settings: object, **environment: str) -> Path:
    """The folder of posts of a run whose outputs lie in the folder `output`."""
    arguments = ["--database", database, "--output", output / "metadata", "--report", output / "ingest.json"]
    result = run_script("ingest_posts.py", *arguments, *ANY, *settings, **environment)
    assert result.returncode == 0, result.stderr
    return output / "metadata"


def revision_here(database: Path, output: Path, *settings: str) -> str:
    """The revision that the stage finds, run in this process."""
    ingest_posts.main(["--database", str(database), "--output", str(output), *ANY, *settings])
    return check_manifest(output)["revision"]


def refused(database: Path, output: Path, *settings: object) -> str:
    """The complaint of a run that must fail without writing anything."""
    text = refusal("ingest_posts.py", "--database", database, "--output", output / "metadata", *settings)
    assert not output.exists() or not list(output.iterdir())
    return text


def test_shards_tags_and_manifest(database, tmp_path):
    metadata = ingest(database, tmp_path / "out")
    names = ["MANIFEST.json", "posts-00000.parquet", "posts-00001.parquet", "posts-00003.parquet", "tags.parquet"]
    assert sorted(p.name for p in metadata.iterdir()) == names
    manifest = check_manifest(metadata)
    assert manifest["revision"] == manifest["content"]
    shards = [pl.read_parquet(metadata / name) for name in names[1:4]]
    assert [shard["id"].to_list() for shard in shards] == [[1, 2, BLOCK - 1], [BLOCK], [3 * BLOCK + 7]]
    assert all(shard.schema == METADATA_COLUMNS for shard in shards)
    posts = pl.concat(shards)
    assert posts["tags"].to_list() == [[3, 1, 7, 8, 5, 2], [2, 2, 1], [], [3, 1, 7, 8, 5, 2], [5, 3]]
    assert posts["has_file"].to_list() == [True, True, False, True, True]
    assert posts["rating"].to_list() == [0, 0, 0, None, 0]
    assert posts["is_deleted"].to_list() == [False, False, False, False, True]
    assert posts["is_banned"].to_list() == [False, False, False, False, None]
    tags = pl.read_parquet(metadata / "tags.parquet")
    assert tags.rows() == [(*tag, 10) for tag in TAGS]


def test_report_counts_orphans_and_missing_values(database, tmp_path):
    metadata = ingest(database, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "ingest.json").read_text()) == {
        "posts": 5, "tags": 13, "relations": 6 + 4 + 0 + 6 + 2 + 6, "orphan_relations": 1 + 6,
        "without": {"rating": 1, "fav_count": 1, "is_banned": 1}, "revision": check_manifest(metadata)["revision"],
    }  # fmt: skip


def test_a_database_without_posts_gives_the_tags_alone(tmp_path):
    database = make_database(tmp_path / "m.db", [], relations=ORPHANS)
    metadata = ingest(database, tmp_path / "out")
    assert sorted(p.name for p in metadata.iterdir()) == ["MANIFEST.json", "tags.parquet"]
    report = json.loads((tmp_path / "out" / "ingest.json").read_text())
    assert (report["posts"], report["relations"], report["orphan_relations"]) == (0, 6, 6)


def test_names_with_quotes_and_line_breaks_are_kept(tmp_path):
    tags = [(1, '"quoted", it\'s', 0), (2, "two\nlines\r\n", 0), (3, "", 1)]
    database = make_database(tmp_path / "m.db", [post(1, tags=[2, 1])], tags=tags)
    found = pl.read_parquet(ingest(database, tmp_path / "out") / "tags.parquet")
    assert found["name"].to_list() == [name for _, name, _ in tags]


def test_revision_is_of_the_content_whatever_the_form(database, tmp_path):
    revision = revision_here(database, tmp_path / "with index")
    assert revision_here(make_tables(tmp_path / "tables", database), tmp_path / "parquet") == revision
    change(database, "DROP INDEX posttagrelation_post_id", "ALTER TABLE post DROP COLUMN updated_at")
    assert revision_here(database, tmp_path / "without index") == revision
    change(database, "PRAGMA page_size = 512", "VACUUM", "ALTER TABLE posttagrelation ADD COLUMN added TEXT")
    assert revision_here(database, tmp_path / "other pages") == revision
    assert folder_bytes(tmp_path / "other pages") == folder_bytes(tmp_path / "with index") == folder_bytes(tmp_path / "parquet")


def test_revision_does_not_hang_on_the_order_of_posts_and_tags(tmp_path):
    # The relations come in one order, apart from the posts.
    relations = [(row["id"], tag) for row in POSTS for tag in row["tags"]]
    posts = [row | {"tags": []} for row in POSTS]
    one = make_database(tmp_path / "one.db", posts, relations=relations)
    other = make_database(tmp_path / "other.db", posts[::-1], tags=TAGS[::-1], relations=relations)
    assert one.read_bytes() != other.read_bytes()
    assert revision_here(one, tmp_path / "one") == revision_here(other, tmp_path / "other")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE posttagrelation SET id = 1000 WHERE id = 1",
        "DELETE FROM posttagrelation WHERE id = 7",
        "UPDATE post SET fav_count = 6 WHERE id = 1",
        "UPDATE post SET fav_count = NULL WHERE id = 1",
        "UPDATE post SET file_url = NULL WHERE id = 1",
        "UPDATE tag SET type = 3 WHERE id = 13",
        "DELETE FROM post WHERE id = 2",
    ],
)
def test_revision_changes_with_what_later_stages_see(database, tmp_path, statement):
    before = revision_here(database, tmp_path / "before")
    assert revision_here(change(database, statement), tmp_path / "after") != before


def test_revision_does_not_change_with_what_no_stage_sees(database, tmp_path):
    before = revision_here(database, tmp_path / "before")
    change(database, "UPDATE post SET uploader_id = 7, up_score = 9", "DELETE FROM posttagrelation WHERE post_id = 3", "ANALYZE")
    assert revision_here(database, tmp_path / "after") == before


def test_a_pinned_revision_is_taken_and_another_refused(database, tmp_path):
    revision = check_manifest(ingest(database, tmp_path / "any"))["revision"]
    ingest(database, tmp_path / "pinned", "--set", f"ingest.revision={revision}")
    assert folder_bytes(tmp_path / "pinned") == folder_bytes(tmp_path / "any")
    text = refused(database, tmp_path / "other", "--set", f"ingest.revision={'a' * 64}")
    assert f"{database}: its revision is {revision}, but ingest.revision is {'a' * 64}: another state" in text


def test_a_failed_run_leaves_the_older_output(database, tmp_path):
    output = tmp_path / "out"
    metadata = ingest(database, output)
    before = folder_bytes(output)
    refusal("ingest_posts.py", "--database", database, "--output", metadata, "--set", f"ingest.revision={'a' * 64}")
    assert folder_bytes(output) == before
    change(database, f"DELETE FROM post WHERE id >= {BLOCK}")
    ingest(database, output)
    assert sorted(p.name for p in metadata.glob("posts-*")) == ["posts-00000.parquet"]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_same_bytes_from_any_processes_and_surroundings(many, tmp_path, processes):
    database, expected = many
    surroundings = {"TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONHASHSEED": "2", "POLARS_MAX_THREADS": "1"}
    assert folder_bytes(ingest(database, tmp_path, "--set", f"runtime.processes={processes}", **surroundings)) == expected


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_in_the_middle_leaves_no_output_and_does_not_disturb_the_next_run(many, tmp_path, processes):
    database, expected = many
    settings = [*ANY, "--set", f"runtime.processes={processes}"]
    output = tmp_path / "killed" / "metadata"
    command = [sys.executable, "stages/ingest_posts.py", "--database", database, "--output", output, *settings]
    process = subprocess.Popen([*map(str, command)], stderr=subprocess.DEVNULL)
    while len(list((output.parent / ".metadata.partial").glob("posts-*"))) < 3:
        assert process.poll() is None
        time.sleep(0.001)
    workers = children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(workers) >= 2 or processes == 1
    wait_until_gone(workers)
    assert [p.name for p in output.parent.iterdir()] == [".metadata.partial"]
    ingest(database, tmp_path / "killed", *settings)
    assert sorted(p.name for p in output.parent.iterdir()) == ["ingest.json", "metadata"]
    assert folder_bytes(output) == expected


@pytest.mark.parametrize("what", ["relations", "posts"])
def test_full_disk_leaves_the_older_output(tiny_disk, tmp_path, what):
    ingest(make_database(tmp_path / "small.db", [post(1)]), tiny_disk)
    before = folder_bytes(tiny_disk)
    if what == "relations":
        large = make_database(tmp_path / "large.db", [post(1, tags=[2] * 20_000)])
    else:  # texts that do not compress
        posts = [post(i, file_ext=f"{i**9:x}{i**11:x}{i**13:x}", tags=[]) for i in range(1, 4000)]
        large = make_database(tmp_path / "large.db", posts)
    text = refusal("ingest_posts.py", "--database", large, "--output", tiny_disk / "metadata", *ANY)
    assert "no space left on the device" in text
    assert str(tiny_disk) in text
    assert folder_bytes(tiny_disk) == before


def test_databases_that_are_not_as_they_should_be(tmp_path):
    assert "no such metadata database" in refused(tmp_path / "none.db", tmp_path / "out")
    score = enlarged(make_database(tmp_path / "score.db", [*POSTS, post(4 * BLOCK, score=2**40)]))
    text = refused(score, tmp_path / "out", "--set", "runtime.processes=2")
    assert f"score.db: post.score: post {4 * BLOCK} holds {2**40}, expected a number of 32 bits" in text
    short = make_database(tmp_path / "short.db", POSTS)
    short.write_bytes(short.read_bytes()[:12288])
    assert "short.db: SQLite says: database disk image is malformed" in refused(short, tmp_path / "out")


def test_a_folder_of_somebody_elses_is_not_replaced(database, tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "mine.png").write_bytes(b"mine")
    text = refusal("ingest_posts.py", "--database", database, "--output", tmp_path / "pictures", *ANY)
    assert "pictures: it is there, and no MANIFEST.json in it says that a stage wrote it" in text
    assert folder_bytes(tmp_path / "pictures") == {"mine.png": b"mine"}


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def index(tmp_path) -> Path:
    """An image index of an archive and of two folders with four pictures."""
    root = tmp_path / "images"
    make_tar(root / "data-0001.tar", {"1.png": png(1)})
    sidecars = {
        "wallpapers/a.png": ("a.txt", "solo, blue sky"),
        "wallpapers/deep/b.png": ("b.json", '{"character": ["mika (lorelei)", "new one"], "rating": "q", "score": 7}'),
        "wallpapers/c.png": None,
        "pixiv/d.png": ("d.txt", "1girl, blue_sky"),
    }
    for number, (name, sidecar) in enumerate(sidecars.items()):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(50 + number))
        if sidecar:
            (root / name).with_name(sidecar[0]).write_text(sidecar[1])
    index_here(root, tmp_path / "index")
    return tmp_path / "index"


FOLDERS = ["--set", "ingest.folders={wallpapers: {custom: [anime wallpaper], rating: general}}"]


def test_pictures_of_folders_with_their_sidecars(database, index, tmp_path):
    metadata = ingest(database, tmp_path / "out", "--image-index", index, *FOLDERS)
    shard = pl.read_parquet(metadata / "posts-1000000.parquet")
    assert shard.schema == METADATA_COLUMNS
    assert shard["id"].is_sorted()
    assert (shard["id"] >= FIRST_PICTURE).all()
    tags = pl.read_parquet(metadata / "tags.parquet")
    assert tags.head(13).rows() == [(*tag, 10) for tag in TAGS]
    assert sorted(tags.tail(-13).select("name", "type", "popularity").iter_rows()) == [
        ("anime wallpaper", 5, 0), ("blue_sky", 0, 0), ("new_one", 2, 0)
    ]  # fmt: skip
    names = dict(tags.select("id", "name").iter_rows())
    found = {
        (s, r, c, tuple(names[t] for t in ts)) for s, r, c, ts in shard.select("source", "rating", "score", "tags").iter_rows()
    }
    assert found == {
        ("wallpapers", 0, None, ("anime wallpaper", "solo", "blue_sky")),
        ("wallpapers", 2, 7, ("anime wallpaper", "mika_(lorelei)", "new_one")),
        ("wallpapers", 0, None, ("anime wallpaper",)),
        ("pixiv", None, None, ("1girl", "blue_sky")),
    }
    report = json.loads((tmp_path / "out" / "ingest.json").read_text())
    assert (report["folders"], report["posts"], report["tags"]) == ({"pixiv": 1, "wallpapers": 3}, 9, 16)


def test_the_tables_without_posts_serve_for_folders_alone(index, tmp_path):
    metadata = ingest(Path("data/no_posts"), tmp_path / "out", "--image-index", index, *FOLDERS)
    assert [file.name for file in metadata.glob("posts-*.parquet")] == ["posts-1000000.parquet"]
    kinds = dict(pl.read_parquet(metadata / "tags.parquet").select("name", "type").iter_rows())
    assert kinds == {"anime wallpaper": 5, "solo": 0, "blue_sky": 0, "mika_(lorelei)": 2, "new_one": 2, "1girl": 0}


def test_pictures_change_the_revision_and_leave_the_posts_alone(database, index, tmp_path):
    without = revision_here(database, tmp_path / "without")
    plain = revision_here(database, tmp_path / "plain", "--image-index", str(index))
    custom = revision_here(database, tmp_path / "custom", "--image-index", str(index), *FOLDERS)
    assert len({without, plain, custom}) == 3
    for name in ("posts-00000.parquet", "posts-00001.parquet", "posts-00003.parquet"):
        assert (tmp_path / "custom" / name).read_bytes() == (tmp_path / "without" / name).read_bytes()


def test_settings_of_a_folder_that_is_not_there(database, index, tmp_path):
    settings = ["--set", "ingest.folders={scans: {custom: [scan]}}", *ANY]
    text = refused(database, tmp_path / "out", "--image-index", index, *settings)
    assert "ingest.folders: the image index has no picture of folder scans; it has pixiv, wallpapers" in text


def test_an_image_index_that_was_changed(database, index, tmp_path):
    (index / "images-1000000.parquet").write_bytes(b"")
    text = refused(database, tmp_path / "out", "--image-index", index, *ANY)
    assert "images-1000000.parquet: missing, unexpected or changed since it was written" in text


def test_folders_without_an_index_of_their_pictures_are_refused(tmp_path):
    database = make_database(tmp_path / "m.db", [post(1)])
    settings = ["--set", "ingest.folders={pixiv: {}}", "--set", "ingest.revision=null"]
    text = refusal("ingest_posts.py", "--database", database, "--output", tmp_path / "out", *settings)
    assert "--image-index must say which index" in text
