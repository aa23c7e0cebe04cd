"""The select stage as a process."""

from repro.hashing import check_manifest

import polars as pl
import pytest
from tiny_booru import folder_bytes, make_database, post, refusal, run_script

RANGES = "select.ranges=[{first: 0, last: 99, take: 20}, {first: 100, last: 999, take: null}]"


@pytest.fixture
def database(tmp_path):
    return make_database(tmp_path / "metadata.db", [post(i, tags=[i % 9 + 1, 2]) for i in range(1, 160)])


def select(database, output, *more, **environment):
    result = run_script(
        "select_posts.py", "--database", database, "--output", output,
        "--set", RANGES, "--set", "select.shard_posts=50", *more, **environment,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result


def test_shards_of_the_chosen_posts(database, tmp_path):
    result = select(database, tmp_path / "posts")
    assert "select: 80 posts" in result.stdout
    assert sorted(p.name for p in (tmp_path / "posts").glob("*.parquet")) == [
        *(f"posts-0000{i}.parquet" for i in range(4)), "tags.parquet",
    ]  # fmt: skip
    check_manifest(tmp_path / "posts")
    blocks = [pl.read_parquet(tmp_path / "posts" / f"posts-0000{i}.parquet") for i in range(4)]
    ids = pl.concat(blocks)["id"].to_list()
    assert ids == sorted(set(ids))
    assert ids[20:] == list(range(100, 160))
    for number, block in enumerate(blocks):
        assert (block["id"] // 50 == number).all()
        assert block["tags"].to_list() == [[i % 9 + 1, 2] for i in block["id"]]
    assert pl.read_parquet(tmp_path / "posts" / "tags.parquet")["id"].is_sorted()


def test_same_bytes_from_any_process_and_seed_decides(database, tmp_path):
    select(database, tmp_path / "a", PYTHONHASHSEED="1", POLARS_MAX_THREADS="1")
    select(database, tmp_path / "b", PYTHONHASHSEED="2", POLARS_MAX_THREADS="4", TZ="Asia/Tokyo", LC_ALL="C")
    assert folder_bytes(tmp_path / "a") == folder_bytes(tmp_path / "b")
    select(database, tmp_path / "c", "--set", "seed=5")
    assert folder_bytes(tmp_path / "a") != folder_bytes(tmp_path / "c")


def test_content_digest_does_not_hang_on_shards(database, tmp_path):
    select(database, tmp_path / "a")
    select(database, tmp_path / "b", "--set", "select.shard_posts=7")
    assert check_manifest(tmp_path / "a")["content"] == check_manifest(tmp_path / "b")["content"]


def test_help_explains_the_stage():
    result = run_script("select_posts.py", "--help")
    assert result.returncode == 0
    assert "--database" in result.stdout
    assert "python stages/select_posts.py" in result.stdout


def test_missing_database(tmp_path):
    text = refusal("select_posts.py", "--database", tmp_path / "none.db", "--output", tmp_path / "posts")
    assert "none.db: no such metadata database" in text
    assert list(tmp_path.iterdir()) == []


def test_wrong_schema(tmp_path):
    database = make_database(tmp_path / "m.db", [post(1)])
    import sqlite3

    with sqlite3.connect(database) as db:
        db.execute("ALTER TABLE post DROP COLUMN rating")
    db.close()
    text = refusal("select_posts.py", "--database", database, "--output", tmp_path / "posts")
    assert "table post has no column rating" in text
    assert not (tmp_path / "posts").exists()


def test_empty_selection(database, tmp_path):
    text = refusal(
        "select_posts.py", "--database", database, "--output", tmp_path / "posts",
        "--set", "select.ranges=[{first: 5000, last: 6000, take: null}]",
    )  # fmt: skip
    assert "no post in 5000..6000; nothing is selected" in text


def test_a_range_that_is_too_small(database, tmp_path):
    text = refusal(
        "select_posts.py", "--database", database, "--output", tmp_path / "posts",
        "--set", "select.ranges=[{first: 0, last: 9, take: 10}]",
    )  # fmt: skip
    assert "10 posts are to be taken from ids 0..9, but the database has 9 there" in text


def test_overlapping_ranges(database, tmp_path):
    text = refusal(
        "select_posts.py", "--database", database, "--output", tmp_path / "posts",
        "--set", "select.ranges=[{first: 0, last: 9, take: 1}, {first: 9, last: 20, take: 1}]",
    )  # fmt: skip
    assert "ranges 0..9 and 9..20 overlap" in text


def test_full_disk_leaves_the_older_output(tiny_disk, tmp_path):
    small = make_database(tmp_path / "small.db", [post(1)])
    output = tiny_disk / "posts"
    every = ["--set", "select.ranges=[{first: 0, last: 99999, take: null}]"]
    assert run_script("select_posts.py", "--database", small, "--output", output, *every).returncode == 0
    before = folder_bytes(output)
    # File names that do not compress, so that the shard is larger than the disk.
    large = make_database(tmp_path / "large.db", [post(i, source=f"{i**9:x}{i**11:x}{i**13:x}") for i in range(1, 4000)])
    text = refusal("select_posts.py", "--database", large, "--output", output, *every)
    assert "no space left on the device" in text
    assert str(output) in text
    assert folder_bytes(tiny_disk) == {f"posts/{name}": data for name, data in before.items()}
