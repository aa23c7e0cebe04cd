"""The filter stage as a process."""

import json
import shutil

from repro.hashing import check_manifest

import polars as pl
import pytest
from tiny_booru import folder_bytes, make_archives, make_database, post, refusal, run_script

from booru.filtering.rules import REASONS
from booru.images.archives import ImageArchives

# One post for each reason, in the rules' order, and ten that are kept.
AWKWARD = [
    {"tags": [1, 12]}, {"is_deleted": 1}, {"is_banned": 1}, {"md5": None}, {"file_ext": "mp4"}, {"rating": 3},
    {"image_height": 40}, {"image_width": 1000}, {"md5": f"{2000:032x}"}, {},
]  # fmt: skip
POSTS = [post(2000 + i) for i in range(10)] + [post(3000 + i, **changes) for i, changes in enumerate(AWKWARD)]
OUTPUTS = ("kept", "funnel.json", "ledger.parquet")


@pytest.fixture
def inputs(tmp_path):
    """Selected posts and the index of archives that lack the last one."""
    database = make_database(tmp_path / "metadata.db", POSTS)
    make_archives(tmp_path / "images", [row["id"] for row in POSTS[:-1]])
    every = ["--set", "select.ranges=[{first: 0, last: 9999, take: null}]", "--set", "select.shard_posts=7"]
    for run in (
        run_script("select_posts.py", "--database", database, "--output", tmp_path / "posts", *every),
        run_script("index_images.py", "--images", tmp_path / "images", "--output", tmp_path / "image_index"),
    ):
        assert run.returncode == 0, run.stderr
    return tmp_path


def options(inputs, name="out"):
    output = inputs / name
    return [
        "--posts", inputs / "posts", "--image-index", inputs / "image_index", "--output", output / "kept",
        "--funnel", output / "funnel.json", "--ledger", output / "ledger.parquet",
    ]  # fmt: skip


def test_kept_posts_funnel_and_ledger(inputs):
    result = run_script("filter_posts.py", *options(inputs))
    assert result.returncode == 0, result.stderr
    assert "kept 10 of 20 posts" in result.stdout
    check_manifest(inputs / "out" / "kept")

    kept = pl.read_parquet(inputs / "out" / "kept" / "posts-*.parquet")
    assert kept["id"].to_list() == list(range(2000, 2010))
    archives = ImageArchives(inputs / "images")
    assert [archives.read(row) for row in kept.iter_rows(named=True)] == [f"picture {i}".encode() for i in kept["id"]]
    selected = pl.read_parquet(inputs / "posts" / "posts-*.parquet")
    assert kept.select(selected.columns).equals(selected[:10])
    assert (inputs / "out" / "kept" / "tags.parquet").read_bytes() == (inputs / "posts" / "tags.parquet").read_bytes()

    ledger = pl.read_parquet(inputs / "out" / "ledger.parquet")
    assert ledger["id"].to_list() == [row["id"] for row in POSTS]
    assert ledger["reason"].to_list() == ["kept"] * 10 + list(REASONS)

    funnel = json.loads((inputs / "out" / "funnel.json").read_text())
    assert (funnel["selected"], funnel["kept"]) == (20, 10)
    assert [(s["reason"], s["dropped"], s["left"]) for s in funnel["steps"]] == [(r, 1, 19 - i) for i, r in enumerate(REASONS)]


def test_same_bytes_from_any_process(inputs):
    for name, seed, threads in (("a", "1", "1"), ("b", "2", "4")):
        result = run_script("filter_posts.py", *options(inputs, name), PYTHONHASHSEED=seed, POLARS_MAX_THREADS=threads)
        assert result.returncode == 0, result.stderr
    assert folder_bytes(inputs / "a") == folder_bytes(inputs / "b")


def test_nothing_left_names_the_hardest_rule(inputs):
    text = refusal("filter_posts.py", *options(inputs), "--set", "filter.min_side=5000")
    assert "none of 20 posts is kept; 'too small' dropped the most" in text
    assert not (inputs / "out").exists()


def test_block_list_cannot_be_emptied(inputs):
    text = refusal("filter_posts.py", *options(inputs), "--set", "filter.blocked_tags=[]")
    assert "blocked_tags must contain loli, shota, toddlercon" in text


def test_missing_or_damaged_inputs(inputs):
    assert "an image index is a folder" in refusal(
        "filter_posts.py", *options(inputs)[:2], "--image-index", inputs / "posts" / "tags.parquet", *options(inputs)[4:]
    )
    (inputs / "image_index" / "images-00000.parquet").unlink()
    assert "images-00000.parquet: missing, unexpected or changed" in refusal("filter_posts.py", *options(inputs))
    shutil.rmtree(inputs / "image_index")
    assert "no such image index" in refusal("filter_posts.py", *options(inputs))
    (inputs / "posts" / "posts-00285.parquet").write_bytes(b"")
    assert "posts-00285.parquet: missing, unexpected or changed" in refusal("filter_posts.py", *options(inputs))
