"""Rows read from an SQLite file's pages: SQLite's own answer, or a word that the pages are unusual."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from booru.metadata.sqlite_pages import PageFile, UnusualPageError, leaf_pages, two_columns

TABLE = "CREATE TABLE r (id INTEGER NOT NULL PRIMARY KEY, post_id INTEGER, tag_id INTEGER)"
# Borders of the record format's sizes: 1, 2, 3, 4, 6 and 8 bytes, and the constants 0 and 1.
BORDERS = [0, 1, 2, 2**7, 2**15, 2**23, 2**31, 2**47, 2**62, 2**63 - 1]
NUMBERS = st.one_of(
    st.sampled_from([sign * border + off for border in BORDERS for sign in (1, -1) for off in (-1, 0) if border < 2**63 - 1]),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 300),
)
ROWS = st.lists(st.tuples(st.integers(1, 2**40) | st.integers(1, 400), NUMBERS, NUMBERS), max_size=60, unique_by=lambda r: r[0])


@contextmanager
def table(folder: Path, *statements: str) -> Iterator[sqlite3.Connection]:
    """A new database after these statements; `in_order` and `by_pages` read its table r once it is closed."""
    with closing(sqlite3.connect(folder / "r.db", isolation_level=None)) as db:
        for statement in ("PRAGMA synchronous = OFF", "PRAGMA journal_mode = MEMORY", *statements):
            db.execute(statement)
        yield db


def in_order(folder: Path) -> list[tuple[int, int]]:
    with closing(sqlite3.connect(folder / "r.db")) as db:
        return db.execute("SELECT post_id, tag_id FROM r ORDER BY id").fetchall()


def by_pages(folder: Path) -> list[tuple[int, int]]:
    with closing(sqlite3.connect(folder / "r.db")) as db:
        root = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'r'").fetchone()[0]
    with PageFile(folder / "r.db") as file:
        pieces = list(two_columns(file, leaf_pages(file, root)))
    assert all(column.dtype == np.int64 for piece in pieces for column in piece)
    return [pair for piece in pieces for pair in zip(*(column.tolist() for column in piece), strict=True)]


@given(
    page_size=st.sampled_from([2**n for n in range(9, 17)]),
    rows=ROWS,
    many=st.integers(0, 3000),
    start=st.sampled_from([1, 100, 2**14 - 500, 2**21 - 500, 2**28 - 500, 2**35 - 500, 2**42]),
    delete=st.sampled_from(["", "id % 3 = 0", "id > 200", "id < 1000", "id BETWEEN 20 AND 2**40", "1"]),
    vacuum=st.booleans(),
    auto_vacuum=st.integers(0, 2),
    before=st.booleans(),
)
@settings(max_examples=120)
def test_pages_give_what_sqlite_gives(page_size, rows, many, start, delete, vacuum, auto_vacuum, before):
    settings = [f"PRAGMA page_size = {page_size}", f"PRAGMA auto_vacuum = {auto_vacuum}"]
    with TemporaryDirectory() as name:
        folder = Path(name)
        with table(folder, *settings) as db:
            if before:
                db.execute("CREATE TABLE other (id INTEGER PRIMARY KEY, x TEXT)")
            db.execute(TABLE)
            db.execute("BEGIN")
            db.executemany("INSERT INTO r VALUES (?, ?, ?)", rows)
            consecutive = ((start + i, i * 7919 % 8_000_000, i % 300) for i in range(many))
            db.executemany("INSERT OR IGNORE INTO r VALUES (?, ?, ?)", consecutive)
            if before:
                db.execute("INSERT INTO other SELECT id, hex(zeroblob(300)) FROM r WHERE id < 1000")
            if delete:
                db.execute(f"DELETE FROM r WHERE {delete.replace('2**40', str(2**40))}")
            db.execute("COMMIT")
            if vacuum:
                db.execute("VACUUM")
        assert by_pages(folder) == in_order(folder)


@pytest.mark.parametrize("value", [*BORDERS, *(-border for border in BORDERS), *(border - 1 for border in BORDERS)])
def test_numbers_at_the_borders_of_the_sizes(tmp_path, value):
    rows = [(i, *pair) for i, pair in enumerate([(value, 5), (5, value), (value, value), (value, 0), (1, value)], start=1)]
    with table(tmp_path, TABLE) as db:
        db.executemany("INSERT INTO r VALUES (?, ?, ?)", rows)
    assert by_pages(tmp_path) == [row[1:] for row in rows]


@pytest.mark.parametrize("post_bytes", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("tag_bytes", [1, 2, 3, 4, 6, 8])
def test_numbers_of_one_size_beside_numbers_of_another(tmp_path, post_bytes, tag_bytes):
    """What is read in one piece then has no other sizes: the case of which most of a booru consists."""
    posts, tags = (
        [2 ** (8 * size - 1) - 1, -(2 ** (8 * size - 1)), 37 * 2 ** (8 * size - 8) + 5] for size in (post_bytes, tag_bytes)
    )
    with table(tmp_path, TABLE) as db:
        db.executemany("INSERT INTO r (post_id, tag_id) VALUES (?, ?)", [(post, tag) for post in posts for tag in tags])
    assert by_pages(tmp_path) == [(post, tag) for post in posts for tag in tags]


@pytest.mark.parametrize("ids", [range(-5, 5), [-(2**63), 0, 2**63 - 1], [-3, 1, 200, 20_000, 2**60], range(2**56 - 300, 2**56)])
def test_rowids_of_every_length_and_sign(tmp_path, ids):
    with table(tmp_path, TABLE) as db:
        db.executemany("INSERT INTO r VALUES (?, ?, ?)", [(i, n, 7) for n, i in enumerate(ids)])
    assert by_pages(tmp_path) == [(n, 7) for n in range(len(ids))]


@pytest.mark.parametrize("ids", [[], [9]])
def test_tables_of_no_row_and_of_one(tmp_path, ids):
    with table(tmp_path, TABLE) as db:
        db.executemany("INSERT INTO r VALUES (?, 3, 4)", [(i,) for i in ids])
    assert by_pages(tmp_path) == [(3, 4)] * len(ids)


def test_a_tree_of_three_levels_read_in_many_pieces(tmp_path):
    """Inserted from both ends, so that the leaves do not lie in the file in their order."""
    with table(tmp_path, "PRAGMA page_size = 512", TABLE) as db:
        db.execute("BEGIN")
        ids = [n if n % 2 else 10**6 - n for n in range(60_000)]
        db.executemany("INSERT INTO r VALUES (?, ?, ?)", ((i, i, i % 1000) for i in ids))
        db.execute("COMMIT")
    with PageFile(tmp_path / "r.db") as file:
        leaves = leaf_pages(file, 2)
        assert len(list(two_columns(file, leaves))) > 1
        assert (np.diff(leaves) < 0).any()
    assert by_pages(tmp_path) == in_order(tmp_path) == [(i, i % 1000) for i in sorted(ids)]


def test_pages_with_reserved_bytes_at_their_ends(tmp_path):
    """As encrypting builds of SQLite leave; every build does so where the header of an empty file asks for it."""
    path = tmp_path / "r.db"
    with table(tmp_path, "PRAGMA page_size = 1024", "PRAGMA user_version = 1"):
        pass
    content = bytearray(path.read_bytes())
    content[20] = 32
    content[105:107] = (1024 - 32).to_bytes(2, "big")  # where the cells of the first page begin
    path.write_bytes(content)
    with table(tmp_path, TABLE, "BEGIN") as db:
        db.executemany("INSERT INTO r VALUES (?, ?, ?)", ((i, i * 1000, i) for i in range(3000)))
        db.execute("COMMIT")
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert path.read_bytes()[20] == 32
    assert all(page.endswith(bytes(32)) for page in pages_of(path, 1024)[1:])
    assert by_pages(tmp_path) == [(i * 1000, i) for i in range(3000)]


def pages_of(path: Path, size: int) -> list[bytes]:
    content = path.read_bytes()
    return [content[at : at + size] for at in range(0, len(content), size)]


@pytest.mark.parametrize(
    "schema",
    [
        "CREATE TABLE r (id INTEGER PRIMARY KEY, post_id INTEGER, tag_id INTEGER) WITHOUT ROWID",
        "CREATE TABLE r (id INT PRIMARY KEY, post_id INTEGER, tag_id INTEGER)",
        "CREATE TABLE r (id INTEGER, post_id INTEGER, tag_id INTEGER)",
        "CREATE TABLE r (id INTEGER PRIMARY KEY DESC, post_id INTEGER, tag_id INTEGER)",
        "CREATE TABLE r (id INTEGER PRIMARY KEY, post_id INTEGER, tag_id INTEGER, x TEXT DEFAULT 'short')",
        f"CREATE TABLE r (id INTEGER PRIMARY KEY, post_id INTEGER, tag_id INTEGER, x TEXT DEFAULT '{'long' * 40}')",
        "CREATE TABLE r (post_id INTEGER, id INTEGER PRIMARY KEY, tag_id INTEGER)",
        "CREATE TABLE r (id INTEGER PRIMARY KEY, post_id INTEGER)",
        "CREATE VIEW r AS SELECT 1 AS id, 2 AS post_id, 3 AS tag_id",
    ],
)
@pytest.mark.parametrize("rows", [1, 2000])
def test_another_kind_of_table_is_unusual(tmp_path, schema, rows):
    with table(tmp_path, schema) as db:
        if "VIEW" not in schema:
            names = "id, post_id" + ", tag_id" * ("tag_id" in schema)
            db.execute("BEGIN")
            db.executemany(f"INSERT INTO r ({names}) VALUES (?, 7{', 8' * ('tag_id' in schema)})", ((i,) for i in range(rows)))
            db.execute("COMMIT")
    with pytest.raises(UnusualPageError):
        by_pages(tmp_path)


@pytest.mark.parametrize("value", [2.5, 1e300, float("inf"), "text", "", b"7", b"", None, "long" * 100])
@pytest.mark.parametrize("column", ["post_id", "tag_id"])
@pytest.mark.parametrize("other", [7, 2**60])
def test_a_value_that_is_no_whole_number_is_unusual(tmp_path, value, column, other):
    with table(tmp_path, TABLE) as db:
        db.executemany("INSERT INTO r VALUES (?, ?, ?)", [(i, other, 8) for i in range(50)])
        db.execute(f"UPDATE r SET {column} = ? WHERE id = 33", [value])
    with pytest.raises(UnusualPageError):
        by_pages(tmp_path)


@pytest.fixture
def many_rows(tmp_path) -> Path:
    with table(tmp_path, "PRAGMA page_size = 512", TABLE) as db:
        db.execute("BEGIN")
        db.executemany("INSERT INTO r VALUES (?, ?, ?)", ((i, i, i) for i in range(3000)))
        db.execute("COMMIT")
    return tmp_path / "r.db"


@pytest.mark.parametrize("kept", [0.5, 0.9])
@pytest.mark.parametrize("whole_pages", [True, False])
def test_a_file_that_was_cut_short_is_unusual(many_rows, kept, whole_pages):
    content = many_rows.read_bytes()
    length = int(len(content) * kept) // 512 * 512
    many_rows.write_bytes(content[: length if whole_pages else length + 100])
    with pytest.raises(UnusualPageError), PageFile(many_rows) as file:
        list(two_columns(file, leaf_pages(file, 2)))


def test_a_page_size_of_zero_is_unusual(many_rows):
    content = many_rows.read_bytes()
    many_rows.write_bytes(content[:16] + b"\0\0" + content[18:])
    with pytest.raises(UnusualPageError):
        PageFile(many_rows)


def test_a_loop_among_the_pages_is_unusual(many_rows):
    """The root's right-most child is the root itself, and all its other children are."""
    content = bytearray(many_rows.read_bytes())
    root = 512
    assert content[root] == 5
    cells = int.from_bytes(content[root + 3 : root + 5], "big")
    for place in [8, *(int.from_bytes(content[at : at + 2], "big") for at in range(root + 12, root + 12 + 2 * cells, 2))]:
        place += root
        content[place : place + 4] = (2).to_bytes(4, "big")
    many_rows.write_bytes(content)
    with pytest.raises(UnusualPageError), PageFile(many_rows) as file:
        leaf_pages(file, 2)


@given(data=st.data())
@settings(max_examples=150)
def test_damaged_pages_raise_nothing_but_unusual(data):
    """Wrong bytes may give wrong numbers, as they do in SQLite, which has no checksums: never another error or a crash."""
    with TemporaryDirectory() as name:
        path = Path(name) / "r.db"
        path.write_bytes(_whole_file())
        content = bytearray(path.read_bytes())
        page = 512 * data.draw(st.integers(1, len(content) // 512 - 1))
        near_header = st.integers(page, page + 20) | st.integers(page, page + 511)
        for place in data.draw(st.lists(near_header, min_size=1, max_size=4)):
            content[place] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        try:
            with PageFile(path) as file:
                list(two_columns(file, leaf_pages(file, 2)))
        except UnusualPageError:
            pass


def _whole_file(made: list[bytes] = []) -> bytes:  # noqa: B006 - made once
    if not made:
        with TemporaryDirectory() as name:
            with table(Path(name), "PRAGMA page_size = 512", TABLE) as db:
                db.execute("BEGIN")
                db.executemany("INSERT INTO r VALUES (?, ?, ?)", ((i, i, i) for i in range(700)))
                db.execute("COMMIT")
            made.append((Path(name) / "r.db").read_bytes())
    return made[0]
