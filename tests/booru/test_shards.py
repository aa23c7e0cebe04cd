"""Parquet shards: bytes that depend on the rows alone, a digest that does not depend on the shards."""

import json

from repro.errors import StageError
from repro.hashing import write_manifest

import polars as pl
import pytest

from booru.shards import ShardWriter, numbered_frames, parquet_bytes, read_tags, row_lines, shard_files, write_frame

TEXTS = [f"é{i}" if i % 3 else None for i in range(100_000)]
FRAME = pl.DataFrame({"id": range(100_000), "text": TEXTS, "tags": [[1, 2]] * 100_000})


def write_shards(folder, sizes):
    folder.mkdir()
    writer = ShardWriter(folder, "posts")
    start = 0
    for number, size in enumerate(sizes):
        writer.write(number, FRAME[start : start + size])
        start += size
    writer.write_tags(pl.DataFrame({"id": [1], "name": ["a"]}))
    write_manifest(folder, writer.content_digest())
    return writer.content_digest()


def test_parquet_bytes_do_not_depend_on_chunks():
    pieces = pl.concat([FRAME[:1], FRAME[1:70_000], FRAME[70_000:]], rechunk=False)
    assert parquet_bytes(pieces) == parquet_bytes(FRAME)


def test_row_lines_are_json_in_column_order():
    first = row_lines(FRAME[:2]).decode().splitlines()
    assert first == ['{"id":0,"text":null,"tags":[1,2]}', '{"id":1,"text":"é1","tags":[1,2]}']


def test_row_lines_write_bytes_as_hexadecimal_digits():
    frame = pl.DataFrame({"id": [1, 2], "phash": [b"\x00\xff", None], "dhash": pl.Series([2**64 - 1, None], dtype=pl.UInt64)})
    assert row_lines(frame).decode().splitlines() == [
        '{"id":1,"phash":"00ff","dhash":18446744073709551615}',
        '{"id":2,"phash":null,"dhash":null}',
    ]


def test_content_digest_is_of_the_rows_not_of_the_shards(tmp_path):
    assert write_shards(tmp_path / "a", [100_000]) == write_shards(tmp_path / "b", [7, 60_000, 39_993])
    assert write_shards(tmp_path / "c", [99_999]) != write_shards(tmp_path / "d", [100_000])
    assert json.loads((tmp_path / "a" / "MANIFEST.json").read_text())["content"]


def test_shards_come_back_in_order(tmp_path):
    write_shards(tmp_path / "a", [10] * 12)
    frames = list(numbered_frames(shard_files(tmp_path / "a", "posts"), ["id"]))
    assert [number for number, _ in frames] == list(range(12))
    assert pl.concat(frame for _, frame in frames)["id"].to_list() == list(range(120))
    assert read_tags(tmp_path / "a").rows() == [(1, "a")]


def test_shards_of_larger_numbers_come_after_those_of_smaller(tmp_path):
    (tmp_path / "a").mkdir()
    writer = ShardWriter(tmp_path / "a", "images")
    for number in (40_000, 1_000_000):
        writer.write(number, FRAME[:1])
    write_manifest(tmp_path / "a", writer.content_digest())
    assert [number for number, _ in numbered_frames(shard_files(tmp_path / "a", "images"))] == [40_000, 1_000_000]


def test_folders_that_are_not_whole(tmp_path):
    with pytest.raises(StageError, match="no such folder"):
        shard_files(tmp_path / "none", "posts")
    write_shards(tmp_path / "a", [10, 10])
    with pytest.raises(StageError, match="no captions-"):
        shard_files(tmp_path / "a", "captions")
    (tmp_path / "a" / "posts-00001.parquet").write_bytes(b"x")
    with pytest.raises(StageError, match=r"posts-00001.parquet: missing, unexpected or changed"):
        shard_files(tmp_path / "a", "posts")


def test_full_disk_is_an_os_error_and_not_a_panic(tiny_disk):
    with pytest.raises(OSError, match="No space left"):
        write_frame(tiny_disk / "a.parquet", FRAME)
