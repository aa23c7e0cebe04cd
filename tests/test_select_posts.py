"""The select stage as a process."""

import json
from pathlib import Path

from repro.hashing import check_manifest

import polars as pl
import pytest
from tiny_booru import (
    FIRST_PICTURE,
    METADATA_COLUMNS,
    folder_bytes,
    make_metadata,
    metadata_post,
    refusal,
    run_script,
    seal_metadata,
)

RANGES = "select.ranges=[{first: 0, last: 99, take: 20}, {first: 100, last: 999, take: null}]"
EVERY = "select.ranges=[{first: 0, last: 99999, take: null}]"
SHARD = 50


@pytest.fixture
def metadata(tmp_path):
    posts = [metadata_post(i, tags=[i % 9 + 1, 2], score=i) for i in range(1, 160)]
    pictures = [metadata_post(FIRST_PICTURE + i, source="art") for i in range(3)]
    return make_metadata(tmp_path / "metadata", posts + pictures, shard_posts=SHARD)


def arguments(metadata: Path, output: Path) -> list[object]:
    """All outputs of a run lie in the folder `output`."""
    return [
        "--metadata", metadata, "--output", output / "posts",
        "--ledger", output / "selection.parquet", "--report", output / "select.json",
    ]  # fmt: skip


def select(metadata: Path, output: Path, *settings: str, **environment: str):
    overrides = [word for setting in (RANGES, *settings) for word in ("--set", setting)]
    result = run_script("select_posts.py", *arguments(metadata, output), *overrides, **environment)
    assert result.returncode == 0, result.stderr
    return result


def refused(metadata: Path, output: Path, *settings: str) -> str:
    """The complaint of a run that must fail without writing anything."""
    overrides = [word for setting in (RANGES, *settings) for word in ("--set", setting)]
    text = refusal("select_posts.py", *arguments(metadata, output), *overrides)
    assert not output.exists()
    return text


def test_shards_of_the_chosen_posts(metadata, tmp_path):
    result = select(metadata, tmp_path / "out")
    posts = tmp_path / "out" / "posts"
    assert sorted(p.name for p in posts.glob("*.parquet")) == [*(f"posts-0000{i}.parquet" for i in range(4)), "tags.parquet"]
    manifest = check_manifest(posts)
    assert manifest["revision"] == check_manifest(metadata)["revision"] == "a" * 64
    blocks = [pl.read_parquet(posts / f"posts-0000{i}.parquet") for i in range(4)]
    ids = pl.concat(blocks)["id"].to_list()
    assert ids == sorted(set(ids))
    assert len(ids) == 80
    assert ids[20:] == list(range(100, 160))
    for number, block in enumerate(blocks):
        assert block.schema == METADATA_COLUMNS | {"repeats": pl.Int32}
        whole = pl.read_parquet(metadata / f"posts-0000{number}.parquet")
        assert block.drop("repeats").equals(whole.filter(pl.col("id").is_in(block["id"].implode())))
        assert (block["repeats"] == 1).all()
    assert pl.read_parquet(posts / "tags.parquet").equals(pl.read_parquet(metadata / "tags.parquet"))
    assert result.stdout.splitlines() == [
        "select:         3 left out,       159 left: outside the ranges",
        "select:        79 left out,        80 left: not drawn",
        "select: 80 of 162 posts, shown 80 times in an epoch",
    ]


def test_ledger_and_report_tell_of_every_post(metadata, tmp_path):
    settings = ["select.min_score=10", "select.excluded_tags=[highres]", "seed=7", "select.repeats=[{min_score: 150, extra: 4}]"]
    select(metadata, tmp_path / "out", *settings)
    ledger = pl.read_parquet(tmp_path / "out" / "selection.parquet")
    report = json.loads((tmp_path / "out" / "select.json").read_text())
    reason_of = dict(ledger.rows())
    assert ledger.schema == {"id": pl.Int64, "reason": pl.String}
    assert list(reason_of) == [*range(1, 160), *(FIRST_PICTURE + i for i in range(3))]
    assert {i for i, reason in reason_of.items() if reason == "score"} == set(range(1, 10))
    assert {i for i, reason in reason_of.items() if reason == "excluded tag"} == {i for i in range(10, 160) if i % 9 == 8}
    assert {i for i, reason in reason_of.items() if reason == "outside the ranges"} == {FIRST_PICTURE + i for i in range(3)}
    written = pl.concat(pl.read_parquet(f) for f in sorted((tmp_path / "out" / "posts").glob("posts-*")))
    assert written["id"].to_list() == [i for i, reason in reason_of.items() if reason == "selected"]
    assert written.filter(pl.col("id") >= 150)["repeats"].unique().to_list() == [5]
    assert written.filter(pl.col("id") < 150)["repeats"].unique().to_list() == [1]
    matching = sum(i % 9 != 8 for i in range(10, 100))
    later = sum(i % 9 != 8 for i in range(100, 160))
    assert report == {
        "revision": "a" * 64, "seed": 7, "metadata": 162, "selected": written.height, "repeats": int(written["repeats"].sum()),
        "ranges": [
            {"first": 0, "last": 99, "posts": 99, "matching": matching, "taken": 20},
            {"first": 100, "last": 999, "posts": 60, "matching": later, "taken": later},
        ],
        "reasons": dict.fromkeys(report["reasons"], 0) | {
            "outside the ranges": 3, "score": 9, "excluded tag": 150 - matching - later, "not drawn": matching - 20,
            "selected": 20 + later,
        },
    }  # fmt: skip


def test_folders_are_selected_with_their_own_shards(metadata, tmp_path):
    select(metadata, tmp_path / "out", "select.ranges=[{folder: art, take: 2}, {first: 0, last: 9, take: null}]")
    posts = tmp_path / "out" / "posts"
    assert sorted(p.name for p in posts.glob("posts-*")) == ["posts-00000.parquet", "posts-1000000.parquet"]
    assert pl.read_parquet(posts / "posts-1000000.parquet").height == 2


def test_replay_is_reported_with_its_draws(metadata, tmp_path):
    select(metadata, tmp_path / "out", "select.draw=replay")
    report = json.loads((tmp_path / "out" / "select.json").read_text())
    first, second = report["ranges"]
    assert first["draws"] == 20
    assert first["distinct"] == first["taken"] < 20
    assert second == {"first": 100, "last": 999, "posts": 60, "matching": 60, "taken": 60}
    assert report["selected"] == first["distinct"] + 60


def test_same_bytes_from_any_process_and_seed_decides(metadata, tmp_path):
    settings = ["select.max_per_character=12", "select.repeats=[{required_tags: [solo], extra: 1}]"]
    settings.append("select.ranges=[{first: 0, last: 99, take: 10}, {first: 100, last: 999, take: null}]")
    select(metadata, tmp_path / "a", *settings, PYTHONHASHSEED="1", POLARS_MAX_THREADS="1")
    select(metadata, tmp_path / "b", *settings, PYTHONHASHSEED="2", POLARS_MAX_THREADS="4", TZ="Asia/Tokyo", LC_ALL="C")
    assert len(folder_bytes(tmp_path / "a")) == 8
    assert folder_bytes(tmp_path / "a") == folder_bytes(tmp_path / "b")
    select(metadata, tmp_path / "c", *settings, "seed=5")
    assert folder_bytes(tmp_path / "a") != folder_bytes(tmp_path / "c")


def test_help_explains_the_stage():
    result = run_script("select_posts.py", "--help")
    assert result.returncode == 0
    assert "--metadata" in result.stdout
    assert "python stages/select_posts.py" in result.stdout


def test_folders_that_are_no_whole_metadata(metadata, tmp_path):
    output = tmp_path / "out"
    assert "none: no such folder" in refused(tmp_path / "none", output)
    seal_metadata(metadata, revision=None)
    assert "MANIFEST.json: no revision in it; expected a folder that ingest_posts.py wrote" in refused(metadata, output)
    shard = metadata / "posts-00001.parquet"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + b"?")
    assert "posts-00001.parquet: missing, unexpected or changed since it was written" in refused(metadata, output)
    shard.unlink()
    assert "posts-00001.parquet: missing, unexpected or changed since it was written" in refused(metadata, output)
    (metadata / "MANIFEST.json").unlink()
    assert "no MANIFEST.json; make this folder again" in refused(metadata, output)


def test_missing_columns_and_tags(metadata, tmp_path):
    output, shard = tmp_path / "out", metadata / "posts-00002.parquet"
    pl.read_parquet(shard).drop("score").write_parquet(shard)
    seal_metadata(metadata)
    assert "posts-00002.parquet: no column score; make the folder again with ingest_posts.py" in refused(
        metadata, output, "select.min_score=1"
    )
    (metadata / "tags.parquet").unlink()
    seal_metadata(metadata)
    assert "tags.parquet: missing" in refused(metadata, output)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("select.required_tags=[sollo]", "select.required_tags: the metadata has no tag 'sollo'; the nearest are solo"),
        ("select.repeats=[{excluded_tags: [sollo], extra: 1}]", "select.repeats.0.excluded_tags: the metadata has no tag"),
        ("select.min_score=10000", "none of the metadata's 162 posts is selected; 'score' left out the most (159)"),
        ("select.ranges=[{first: 5000, last: 6000, take: null}]", "'outside the ranges' left out the most (162)"),
        ("select.ranges=[{first: 0, last: 9, take: 10}]", "10 posts are to be taken from ids 0..9, but the metadata has 9"),
        ("select.ranges=[{folder: scans, take: null}]", "the metadata has no picture of folder scans"),
        ("select.ranges=[{first: 0, last: 9, take: 1}, {first: 9, last: 20, take: 1}]", "ranges 0..9 and 9..20 overlap"),
        ("select.first_date=2020-02-30", "select.first_date: 2020-02-30 is not a day of the calendar"),
        ("select.ratings=[safe]", "select.ratings.0: Input should be 'general', 'sensitive', 'questionable' or 'explicit'"),
    ],
)
def test_settings_that_select_nothing_or_cannot_be(metadata, tmp_path, setting, message):
    settings = ["select.min_score=0", "select.ranges=[{first: 0, last: 999, take: 10}]", setting]
    if "min_score" in setting:
        settings[1] = "select.ranges=[{first: 0, last: 999, take: null}]"
    assert message in refused(metadata, tmp_path / "out", *settings)


def test_conditions_with_a_replay(metadata, tmp_path):
    text = refused(metadata, tmp_path / "out", "select.draw=replay", "select.min_score=1")
    assert "select: draw: replay draws over all posts of a range, as the reference did; leave min_score out" in text


def test_full_disk_leaves_the_older_output(tiny_disk, tmp_path):
    small = make_metadata(tmp_path / "small", [metadata_post(1)])
    assert run_script("select_posts.py", *arguments(small, tiny_disk), "--set", EVERY).returncode == 0
    before = folder_bytes(tiny_disk)
    # File types that do not compress, so that the shard is larger than the disk.
    posts = [metadata_post(i, file_ext=f"{i**9:x}{i**11:x}{i**13:x}") for i in range(1, 4000)]
    large = make_metadata(tmp_path / "large", posts)
    text = refusal("select_posts.py", *arguments(large, tiny_disk), "--set", EVERY)
    assert "no space left on the device" in text
    assert str(tiny_disk / "posts") in text
    assert folder_bytes(tiny_disk) == before
