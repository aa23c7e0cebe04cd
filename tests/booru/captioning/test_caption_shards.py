"""Caption shards: how posts are divided into shards and pieces shows in nothing."""

from pathlib import Path

import numpy as np
import polars as pl
from tiny_booru import TAGS, make_metadata, metadata_post

from booru.captioning.caption_shards import CaptionJob, caption_file
from booru.captioning.captions import PIECE
from booru.captioning.profiles import profile
from booru.shards import shard_files, shard_number

POSTS = [
    metadata_post(i, tags=[i % 11 + 1, 5, i % 7 + 1], fav_count=i % 60, rating=None if i % 1000 == 999 else i % 4)
    for i in range(1, PIECE + 700)
]


def captioned(folder: Path, shard_posts: int) -> tuple:
    """Rows, lines, counts of tags, counts of made words, and posts without caption of all shards together."""
    posts = make_metadata(folder / "posts", POSTS, shard_posts=shard_posts)
    (folder / "captions").mkdir()
    job = CaptionJob(folder / "captions", profile("kohaku-xl-epsilon").model_dump_json(), lines=True, posts=posts)
    files = shard_files(posts, "posts")
    results = [caption_file((job, shard_number(file), file)) for file in files]
    assert [result.shard.number for result in results] == [shard_number(file) for file in files]
    frame = pl.concat(pl.read_parquet(file) for file in sorted(job.output.glob("*.parquet")))
    assert sum(result.shard.rows for result in results) == frame.height
    lines = b"".join(result.lines for result in results)
    counts = {}
    for part in ("artist", "character"):
        counts[part] = np.zeros(len(TAGS), dtype=np.int64)
        for result in results:
            rows, posts_of_row = result.counts[part]
            counts[part][rows] += posts_of_row
        counts[part] = counts[part].tolist()
    made = np.sum([result.made for result in results], axis=0).tolist()
    return frame.rows(), lines, counts, made, pl.concat(result.skipped for result in results).rows()


def test_a_shard_of_more_than_a_piece_is_as_many_small_ones(tmp_path: Path):
    large, small = captioned(tmp_path / "large", 10**6), captioned(tmp_path / "small", 500)
    assert large == small
    rows, lines, counts, _, skipped = large
    assert len(rows) == lines.count(b"\n") == len(POSTS) - len(skipped)
    assert skipped == [(i, "no rating") for i in range(999, len(POSTS), 1000)]
    lisa = TAGS.index((5, "lisa_w", 1))
    assert counts["artist"][lisa] == len(rows)
