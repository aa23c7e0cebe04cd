"""Parquet shards: bytes that depend on the rows alone, and digests of the values whatever the bytes."""

import hashlib
import json
import struct
from datetime import date

from repro.errors import StageError
from repro.hashing import write_manifest

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from booru.shards import (
    ShardWriter,
    numbered_frames,
    parquet_bytes,
    read_tags,
    row_lines,
    shard_files,
    shard_name,
    shard_number,
    values_digest,
    write_frame,
    write_shard,
)

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


def test_content_digest_is_of_the_rows_and_their_shards(tmp_path):
    """Shards are blocks of ids, the same in every run: another division is another content."""
    whole = write_shards(tmp_path / "a", [100_000])
    assert whole == write_shards(tmp_path / "b", [100_000])
    assert len({whole, write_shards(tmp_path / "c", [7, 99_993]), write_shards(tmp_path / "d", [99_999])}) == 3
    assert json.loads((tmp_path / "a" / "MANIFEST.json").read_text())["content"] == whole


def test_content_digest_knows_the_numbers_of_the_shards(tmp_path):
    digests = set()
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        writer = ShardWriter(tmp_path / str(number), "posts")
        writer.write(number, FRAME[:5])
        digests.add(writer.content_digest())
    assert len(digests) == 2


def test_shards_written_elsewhere_count_as_those_written_here(tmp_path):
    expected = write_shards(tmp_path / "a", [60_000, 40_000])
    writer = ShardWriter(tmp_path / "a", "posts")
    shards = [write_shard(tmp_path / "a", "posts", number, FRAME[n:m]) for number, n, m in [(1, 60_000, 100_000), (0, 0, 60_000)]]
    for shard in sorted(shards):
        writer.add(shard)
    writer.write_tags(pl.DataFrame({"id": [1], "name": ["a"]}))
    assert (writer.content_digest(), writer.rows) == (expected, 100_000)


KINDS = {
    pl.Int8: st.integers(-128, 127), pl.Int64: st.integers(-(2**63), 2**63 - 1), pl.UInt64: st.integers(0, 2**64 - 1),
    pl.Boolean: st.booleans(), pl.String: st.text(max_size=4), pl.Binary: st.binary(max_size=4),
    pl.Float32: st.floats(width=32, allow_nan=False), pl.List(pl.Float64): st.lists(st.floats(allow_nan=False), max_size=2),
    pl.List(pl.Int32): st.lists(st.none() | st.integers(-9, 9), max_size=3), pl.List(pl.String): st.lists(st.text(max_size=2)),
}  # fmt: skip


@st.composite
def frames(draw):
    rows = draw(st.integers(0, 20))
    columns = draw(st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=4))
    values = [draw(st.lists(st.none() | KINDS[kind], min_size=rows, max_size=rows)) for kind in columns]
    return pl.DataFrame([pl.Series(f"c{n}", v, dtype=kind) for n, (v, kind) in enumerate(zip(values, columns, strict=True))])


WIDTHS = {
    pl.Boolean: "B", pl.Int8: "b", pl.UInt8: "B", pl.Int16: "h", pl.UInt16: "H", pl.Int32: "i", pl.UInt32: "I",
    pl.Int64: "q", pl.UInt64: "Q", pl.Float32: "f", pl.Float64: "d",
}  # fmt: skip


def retold(name: str, values: list, kind) -> bytes:
    """What is digested of a column, told value by value."""
    missing = [value is None for value in values]
    text = f"{name} {kind} {len(values)} {sum(missing)}\n".encode()
    if any(missing):
        bits = "".join(str(int(bit)) for bit in missing)
        text += bytes(int(bits[n : n + 8].ljust(8, "0"), 2) for n in range(0, len(bits), 8))
    if kind in (pl.String, pl.Binary):
        values = [b"" if v is None else v.encode() if kind == pl.String else v for v in values]
        return text + b"".join(struct.pack("<I", len(v)) for v in values) + b"".join(values)
    if kind in WIDTHS:
        return text + b"".join(struct.pack(f"<{WIDTHS[kind]}", v or 0) for v in values)
    text += b"".join(struct.pack("<I", len(v or [])) for v in values)
    return text + retold("item", [item for v in values for item in v or []], kind.inner)


@given(frame=frames())
@settings(max_examples=60)
def test_values_digest_is_of_names_nulls_and_values(frame):
    text = b"".join(retold(name, frame[name].to_list(), kind) for name, kind in frame.schema.items())
    assert values_digest(frame) == hashlib.sha256(text).hexdigest()
    pieces = pl.concat([frame[: frame.height // 2], frame[frame.height // 2 :]], rechunk=False)
    assert values_digest(pieces) == values_digest(frame)


def test_values_digest_tells_apart_what_looks_alike():
    columns = [
        pl.Series("a", [[1], [2, 3]]), pl.Series("a", [[1, 2], [3]]), pl.Series("a", [[1, 2, 3], []]),
        pl.Series("a", [[1, 2, 3], None]), pl.Series("a", [[], [1, 2, 3]]), pl.Series("b", [[1], [2, 3]]),
        pl.Series("a", ["ab", "c"]), pl.Series("a", ["a", "bc"]), pl.Series("a", ["abc", ""]), pl.Series("a", ["abc", None]),
        pl.Series("a", [0, 1]), pl.Series("a", [None, 1]), pl.Series("a", [1, 0]),
    ]  # fmt: skip
    assert len({values_digest(pl.DataFrame([column])) for column in columns}) == len(columns)


def test_values_without_a_digest():
    with pytest.raises(TypeError, match="column day: values of Date have no digest"):
        values_digest(pl.DataFrame({"day": [date(2024, 6, 10)]}))


def test_floats_are_digested_by_their_bits():
    below = float(np.nextafter(np.float32(0.5), np.float32(0)))
    columns = [pl.Series("a", values, dtype=pl.Float32) for values in ([0.5], [below], [0.0], [-0.0], [None], [float("nan")])]
    columns += [pl.Series("a", [0.5], dtype=pl.Float64), pl.Series("a", [[0.5]], dtype=pl.List(pl.Float32))]
    assert len({values_digest(pl.DataFrame([column])) for column in columns}) == len(columns)


@pytest.mark.parametrize("number", [0, 7, 99_999, 100_000, 1_000_003])
def test_the_number_is_in_the_name(tmp_path, number):
    assert shard_number(tmp_path / shard_name("posts", number)) == number


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
