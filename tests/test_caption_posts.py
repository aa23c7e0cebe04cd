"""The caption stage as a process."""

import json

from repro.hashing import check_manifest

import polars as pl
import pytest
from tiny_booru import folder_bytes, make_database, post, refusal, run_script

POSTS = [
    post(5, tags=[3, 1, 7, 8, 5, 2, 9, 10]),
    post(6, tags=[]),
    post(7, tags=[4, 3, 3, 6, 5, 7], created_at="2023-01-01", rating=1, fav_count=1000),
    post(7_200_000, tags=[1, 7], rating=3, created_at="2024-12-31"),
]


@pytest.fixture
def posts(tmp_path):
    database = make_database(tmp_path / "metadata.db", [*POSTS, *(post(i, tags=[i % 13 + 1, 5]) for i in range(100, 400))])
    every = ["--set", "select.ranges=[{first: 0, last: 7999999, take: null}]", "--set", "select.shard_posts=100"]
    result = run_script("select_posts.py", "--database", database, "--output", tmp_path / "posts", *every)
    assert result.returncode == 0, result.stderr
    return tmp_path / "posts"


def options(posts, name="out"):
    output = posts.parent / name
    return [
        "--posts", posts, "--output", output / "captions",
        "--artists", output / "artists.json", "--characters", output / "characters.json",
    ]  # fmt: skip


def caption(posts, name="out", *more, **environment):
    result = run_script("caption_posts.py", *options(posts, name), *more, **environment)
    assert result.returncode == 0, result.stderr
    return posts.parent / name


def test_captions_and_lists(posts):
    output = caption(posts)
    check_manifest(output / "captions")
    frame = pl.read_parquet(output / "captions" / "captions-*.parquet")
    assert frame["id"].is_sorted()
    assert frame.height == 304
    captions = dict(frame.select("id", "caption").iter_rows())
    assert captions[5] == "1girl, mika (lorelei), lorelei, lisa w, |||long hair, solo, highres, mid, safe, normal quality"
    assert captions[6] == ", |||mid, safe, normal quality"
    assert captions[7] == "mika (lorelei), lisa w, |||^_^, long hair, long hair, newest, sensitive, masterpiece"
    assert captions[7_200_000] == "1girl, mika (lorelei), |||newest, explicit, nsfw"
    assert [p.name for p in sorted((output / "captions").glob("captions-*"))] == [
        f"captions-{n:05d}.parquet" for n in (0, 1, 2, 3, 72_000)
    ]

    artists = (output / "artists.json").read_text()
    assert json.loads(artists) == {"lisa_w": 302}
    characters = json.loads((output / "characters.json").read_text())
    assert characters == {"mika_(lorelei)": 3 + sum(i % 13 + 1 == 7 for i in range(100, 400))}


def test_lists_are_ranked_by_count_then_name(tmp_path):
    tags = [(1, "zoe", 2), (2, "ann", 2), (3, "bob", 2), (4, "bob", 1)]
    rows = [post(1, tags=[1, 2, 3, 3]), post(2, tags=[1]), post(3, tags=[4])]
    database = make_database(tmp_path / "m.db", rows, tags=tags)
    every = ["--set", "select.ranges=[{first: 0, last: 99, take: null}]"]
    assert run_script("select_posts.py", "--database", database, "--output", tmp_path / "posts", *every).returncode == 0
    output = caption(tmp_path / "posts")
    assert list(json.loads((output / "characters.json").read_text()).items()) == [("zoe", 2), ("ann", 1), ("bob", 1)]
    assert json.loads((output / "artists.json").read_text()) == {"bob": 1}


def test_the_profile_decides(posts):
    delta = caption(posts, "delta", "--set", "caption.profile=kohaku-delta")
    frame = pl.read_parquet(delta / "captions" / "captions-*.parquet")
    assert frame.filter(pl.col("id") == 7)["keep"].to_list() == [["mika (lorelei)", "banned artist", "lisa w"]]
    assert "banned_artist" in json.loads((delta / "artists.json").read_text())


def test_same_bytes_from_any_process(posts):
    one = caption(posts, "a", PYTHONHASHSEED="1", POLARS_MAX_THREADS="1")
    other = caption(posts, "b", PYTHONHASHSEED="2", POLARS_MAX_THREADS="4", LC_ALL="C", TZ="Asia/Tokyo")
    assert folder_bytes(one) == folder_bytes(other)


def test_unknown_profile(posts):
    text = refusal("caption_posts.py", *options(posts), "--set", "caption.profile=kohaku-beta")
    assert "there is no profile 'kohaku-beta'; there are kohaku-delta, kohaku-epsilon, hakubooru-head" in text


def test_missing_posts(tmp_path):
    assert "no such folder" in refusal("caption_posts.py", *options(tmp_path / "none"))


def test_full_disk_leaves_nothing_behind(posts, tiny_disk):
    (tiny_disk / "filler").write_bytes(bytes(48 * 1024))
    text = refusal(
        "caption_posts.py", "--posts", posts, "--output", tiny_disk / "captions",
        "--artists", posts.parent / "artists.json", "--characters", posts.parent / "characters.json",
    )  # fmt: skip
    assert "no space left on the device" in text
    assert str(tiny_disk / "captions") in text
    assert [p.name for p in tiny_disk.iterdir()] == ["filler"]
    assert not (posts.parent / "artists.json").exists()
