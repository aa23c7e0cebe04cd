"""Relations sorted into blocks of posts: which blocks there are, and what each of them holds."""

import sqlite3
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from repro.errors import StageError

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_booru import make_database, make_tables

from booru.metadata import database, sqlite_pages, tables
from booru.metadata.reader import open_metadata
from booru.metadata.relations import Block, RelationBlocks, blocks_of

IDS = st.integers(0, 10**11 - 1) | st.integers(0, 8_000_000)
BOUNDS = st.tuples(IDS, IDS).map(sorted).map(tuple)
ROW_IDS = "CREATE TABLE posttagrelation (id INTEGER NOT NULL PRIMARY KEY, post_id INTEGER, tag_id INTEGER)"
# Tables that SQLite holds in another form than the published one; they are read by queries.
OTHER_TABLES = [
    "CREATE TABLE posttagrelation (id INTEGER PRIMARY KEY, post_id INTEGER, tag_id INTEGER) WITHOUT ROWID",
    "CREATE TABLE posttagrelation (id INT PRIMARY KEY, post_id INTEGER, tag_id INTEGER)",
    "CREATE TABLE posttagrelation (id BIGINT, post_id BIGINT, tag_id BIGINT)",
    "CREATE TABLE posttagrelation (id INTEGER PRIMARY KEY, post_id INTEGER, tag_id INTEGER, added TEXT DEFAULT 'long')",
    "CREATE TABLE posttagrelation (tag_id INTEGER, post_id INTEGER, id INTEGER PRIMARY KEY)",
    "CREATE TABLE posttagrelation (id INTEGER PRIMARY KEY DESC, post_id INTEGER, tag_id INTEGER)",
]


def with_relations(path: Path, rows: list[tuple], schema: str = ROW_IDS) -> Path:
    """A database without posts that has these relations (id, post, tag)."""
    make_database(path, [])
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA synchronous = OFF")
        db.execute("DROP TABLE posttagrelation")
        db.execute(schema)
        db.executemany("INSERT INTO posttagrelation (id, post_id, tag_id) VALUES (?, ?, ?)", rows)
        db.commit()
    return path


def blocks_read(path: Path, blocks: list[Block]) -> tuple[list[list[tuple[int, int]]], int]:
    """The (post, tag) pairs of each block, and how many relations were left out."""
    with open_metadata(path) as source, TemporaryDirectory() as scratch:
        relations = RelationBlocks(Path(scratch) / "relations")
        left_out = relations.fill(source, blocks)
        found = [relations.read(block) for block in blocks]
        relations.remove()
        assert not (Path(scratch) / "relations").exists()
    assert all(column.dtype == np.int32 for pair in found for column in pair)
    return [list(zip((p + b.first).tolist(), t.tolist(), strict=True)) for b, (p, t) in zip(blocks, found, strict=True)], left_out


def retold(rows: list[tuple], blocks: list[Block]) -> tuple[list[list[tuple[int, int]]], int]:
    """The same, told plainly: by post, and of one post by the relation's id."""
    pairs = [(post, tag if 0 <= tag < 2**31 else -1) for _, post, tag in sorted(rows)]
    found = [sorted((p for p in pairs if b.first <= p[0] <= b.last), key=lambda p: p[0]) for b in blocks]
    return found, len(rows) - sum(map(len, found))


@given(bounds=BOUNDS, sparse=st.integers(1, 2**20))
def test_blocks_adjoin_and_hold_all_ids_and_few_posts(bounds, sparse):
    first, last = bounds
    posts = (last - first) // sparse + 1
    blocks = blocks_of(bounds, posts)
    assert blocks[0].first <= first <= blocks[0].last
    assert blocks[-1].first <= last <= blocks[-1].last
    assert all(a.last + 1 == b.first and a.number + 1 == b.number for a, b in pairwise(blocks))
    ids = blocks[0].last - blocks[0].first + 1
    assert {b.last - b.first + 1 for b in blocks} == {ids}
    assert ids % 50_000 == 0
    assert (ids // 50_000).bit_count() == 1
    assert all(b.first == b.number * ids for b in blocks)
    assert ids <= 2**31
    assert ids == 50_000 or ids * posts <= 50_000 * (last - first + 1)
    assert len(blocks) <= 2 * posts / 50_000 + 2 or 2 * ids > 2**31


@given(first=st.integers(0, 200_000), spanned=st.integers(1, 10_000_000), growth=st.integers(0, 10_000_000))
def test_a_database_that_grows_at_its_end_keeps_its_blocks(first, spanned, growth):
    before = blocks_of((first, first + spanned - 1), spanned * 9 // 10 + 1)
    after = blocks_of((first, first + spanned + growth - 1), (spanned + growth) * 9 // 10 + 1)
    assert after[: len(before)] == before


def test_blocks_of_known_databases():
    assert blocks_of(None, 0) == []
    assert blocks_of((5, 5), 1) == [Block(0, 0, 49_999)]
    danbooru = blocks_of((1, 7_866_491), 7_400_000)
    assert danbooru == [Block(n, n * 50_000, n * 50_000 + 49_999) for n in range(158)]
    tenth = blocks_of((1, 7_866_491), 740_000)
    assert tenth == [Block(n, n * 400_000, n * 400_000 + 399_999) for n in range(20)]
    # Places of 31 bits bound the widest.
    two_posts = blocks_of((0, 10**11 - 1), 2)
    assert two_posts == [Block(n, n * 1_638_400_000, n * 1_638_400_000 + 1_638_399_999) for n in range(62)]


NUMBERS = st.integers(-5, 60) | st.sampled_from([-(2**63), -(2**31) - 1, 2**31 - 1, 2**31, 2**32 + 5, 2**63 - 1])
ROWS = st.lists(st.tuples(st.integers(-9, 500), NUMBERS, NUMBERS), max_size=80, unique_by=lambda row: row[0])
BLOCKS = [Block(n, n * 8, n * 8 + 7) for n in range(1, 6)]


@given(rows=ROWS, schema=st.sampled_from([ROW_IDS, *OTHER_TABLES]), at_once=st.sampled_from([1, 7, 2_000_000]))
@settings(max_examples=40)
def test_every_block_has_its_relations_in_the_order_of_their_ids(rows, schema, at_once):
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "RELATIONS_AT_ONCE", at_once)
        assert blocks_read(with_relations(Path(name) / "m.db", rows, schema), BLOCKS) == retold(rows, BLOCKS)


@given(rows=ROWS, at_once=st.sampled_from([1, 7, 2_000_000]))
@settings(max_examples=15)
def test_the_same_of_parquet(rows, at_once):
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "RELATIONS_AT_ONCE", at_once)
        folder = make_tables(Path(name) / "tables", with_relations(Path(name) / "m.db", rows))
        assert blocks_read(folder, BLOCKS) == retold(rows, BLOCKS)


@pytest.mark.parametrize("shuffled", [False, True])
def test_many_pages_in_many_pieces(tmp_path, monkeypatch, shuffled):
    monkeypatch.setattr(sqlite_pages, "BYTES_AT_ONCE", 8192)
    posts = [n * 7919 % 48 for n in range(9000)] if shuffled else [n // 188 for n in range(9000)]
    rows = [(n, post, n % 300) for n, post in enumerate(posts)]
    assert blocks_read(with_relations(tmp_path / "m.db", rows), BLOCKS) == retold(rows, BLOCKS)


def test_no_blocks_leave_all_relations_out(tmp_path):
    assert blocks_read(with_relations(tmp_path / "m.db", [(1, 2, 3), (2, 2, 3)]), []) == ([], 2)


def test_ids_of_relations_with_wide_gaps(tmp_path):
    rows = [(number, 9, place) for place, number in enumerate([-(2**40), 0, 3, 2**40, 2**62, 2**63 - 1])]
    for number, schema in enumerate([ROW_IDS, *OTHER_TABLES]):
        path = with_relations(tmp_path / f"{number}.db", rows, schema)
        assert blocks_read(path, BLOCKS)[0][0] == [(9, place) for place in range(6)]


@pytest.mark.parametrize("schema", [ROW_IDS, *OTHER_TABLES])
@pytest.mark.parametrize(
    ("value", "found"),
    [("solo", "holds 'solo'"), (None, "has no value"), (2.5, "holds 2.5"), (b"7", "holds b'7'"), ("", "holds ''")],
)
def test_a_value_that_is_no_number_is_named_whatever_the_pages(tmp_path, monkeypatch, schema, value, found):
    monkeypatch.setattr(database, "RELATIONS_AT_ONCE", 20)
    path = with_relations(tmp_path / "m.db", [(n, 9, value if n == 33 else 7) for n in range(50)], schema)
    with pytest.raises(StageError, match=r"m\.db: posttagrelation\.tag_id: relation 33 ") as error:
        blocks_read(path, BLOCKS)
    assert str(error.value).endswith(f" {found}, expected an integer")


def test_an_older_attempt_leaves_no_trace(tmp_path):
    relations = RelationBlocks(tmp_path / "relations")
    for number in (3, 4):
        path = with_relations(tmp_path / f"{number}.db", [(1, 8, number)])
        with open_metadata(path) as source:
            relations.fill(source, BLOCKS)
        assert relations.read(BLOCKS[0])[1].tolist() == [number]
