"""danbooru2023's metadata as an SQLite database: opened read-only, its schema checked, read in bounded pieces.

SQLite stores whatever it is given in any column, so values are checked as well as declarations. The long table of
relations is read from the file's pages (booru/metadata/sqlite_pages.py); where those are of an unusual form SQLite is asked, and
its numbers are joined to one text inside SQLite and parsed by numpy, since every row that reaches Python is slow.
"""

import functools
import json
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

from repro.errors import StageError

import numpy as np
import polars as pl

from booru.metadata.schema import EXPECTED, RELATION_COLUMNS, TAG_COLUMNS, Column, check_id_bounds, schema_of
from booru.metadata.sqlite_pages import PageFile, UnusualPageError, leaf_pages, two_columns
from booru.ratings import check_ratings
from booru.tags import check_tags

RELATIONS_AT_ONCE = 2_000_000
EXPECTED_FILES = "danbooru2023's .db file, or a folder with one parquet a table"
LEAST, GREATEST = -(2**63), 2**63 - 1
Result = TypeVar("Result")


def _sqlite_errors_in_words(method: Callable[..., Result]) -> Callable[..., Result]:
    """Tell SQLite's errors while `method` of a BooruDatabase reads as one line about the file."""

    @functools.wraps(method)
    def guarded(self: "BooruDatabase", *arguments: object) -> Result:
        try:
            return method(self, *arguments)
        except sqlite3.Error as error:
            raise StageError(f"{self.path}: SQLite says: {error}; the file is damaged or cut short, fetch it again") from None

    return guarded


class BooruDatabase:
    """A read-only view of one metadata database; a context manager.

    Opened as immutable: SQLite then neither locks it nor puts files beside it.

    Args:
        post_columns: what will be read of a post; the file need not have more.

    Raises:
        StageError: no such file, not SQLite, changes not merged into the file, or a table or column
            that is missing or of another type; a broken page or value while reading.
    """

    @_sqlite_errors_in_words
    def __init__(self, path: Path, post_columns: Sequence[Column]):
        self.path, self.post_columns = Path(path), post_columns
        _refuse_unreadable(self.path)
        uri = f"{self.path.resolve().as_uri()}?mode=ro&immutable=1"
        self._connection = sqlite3.connect(uri, uri=True, isolation_level=None)
        self._present = self._check_schema()

    def __enter__(self) -> "BooruDatabase":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    @_sqlite_errors_in_words
    def tags(self) -> pl.DataFrame:
        """The tag table: id (i64), name, type (i64), popularity (i64), sorted by id; ids and types checked."""
        self._refuse_ids("tag")
        return check_tags(self._frame("tag", TAG_COLUMNS, "", []), f"{self.path}: table tag")

    @_sqlite_errors_in_words
    def id_bounds(self) -> tuple[int, int] | None:
        """The lowest and the highest id of a post; None without posts."""
        self._refuse_ids("post")
        first, last = self._connection.execute("SELECT min(id), max(id) FROM post").fetchone()
        return None if first is None else check_id_bounds(first, last, f"{self.path}: table post")

    @_sqlite_errors_in_words
    def post_count(self) -> int:
        return self._connection.execute("SELECT count(*) FROM post").fetchone()[0]

    @_sqlite_errors_in_words
    def posts(self, first: int, last: int) -> pl.DataFrame:
        """The posts with first <= id <= last, sorted by id: i64 and str columns; ratings checked."""
        posts = self._frame("post", self.post_columns, "WHERE id BETWEEN ? AND ?", [first, last])
        return check_ratings(posts, f"{self.path}: table post")

    @_sqlite_errors_in_words
    def relation_count(self) -> int:
        """The highest relation id, for progress: rows that are gone are counted in."""
        return self._connection.execute("SELECT max(id) FROM posttagrelation").fetchone()[0] or 0

    def relation_readers(self) -> list[Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]]:
        """Ways to read post ids and tag ids (i64) of all relations, in bounded pieces and in the order of
        posttagrelation.id: what HakuBooru's unordered query yields, and so the order of its captions.

        The fastest comes first; it may raise UnusualPageError at any piece, and the next is to be tried.
        """
        return [self._relations_by_pages, self._relations_by_queries]

    def _relations_by_pages(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        if list(self._present["posttagrelation"]) != [c.name for c in RELATION_COLUMNS]:
            raise UnusualPageError("other columns")
        query = "SELECT rootpage FROM sqlite_schema WHERE name = 'posttagrelation' COLLATE NOCASE"
        root = self._connection.execute(query).fetchone()[0]
        with PageFile(self.path) as file:
            yield from two_columns(file, leaf_pages(file, root))

    def _relations_by_queries(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        self._refuse_ids("posttagrelation")
        last = LEAST
        while (first := self._relation_above(last)) is not None:
            last = min(first + RELATIONS_AT_ONCE - 1, GREATEST)
            yield self._relations_of_ids(first, last)

    @_sqlite_errors_in_words
    def _relation_above(self, number: int) -> int | None:
        return self._connection.execute("SELECT min(id) FROM posttagrelation WHERE id > ?", [number]).fetchone()[0]

    @_sqlite_errors_in_words
    def _relations_of_ids(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        where = "FROM posttagrelation WHERE id BETWEEN ? AND ?"
        query = f"SELECT json_group_array(post_id), json_group_array(tag_id) FROM (SELECT post_id, tag_id {where} ORDER BY id)"
        try:
            arrays = self._connection.execute(query, [first, last]).fetchone()
        except sqlite3.OperationalError:  # bytes, which JSON cannot hold; or a broken page
            self._refuse_relations(f"{where} AND", [first, last])
            raise
        posts, tags = (_numbers(array[1:-1]) for array in arrays)
        if posts is None or tags is None:
            self._refuse_relations(f"{where} AND", [first, last])
        return posts, tags

    def _refuse_relations(self, where: str, bounds: list[int]) -> None:
        """Name the first relation that is no pair of integers; come back where there is none."""
        for column in RELATION_COLUMNS[1:]:
            query = f"SELECT id, {column.name} {where} typeof({column.name}) <> 'integer' LIMIT 1"
            if row := self._connection.execute(query, bounds).fetchone():
                self._refuse_value("posttagrelation", column, f"relation {row[0]}", row[1])

    @_sqlite_errors_in_words
    def _refuse_ids(self, table: str) -> None:
        """Refuse ids that are no whole numbers, which a table without SQLite's own rowid as its id can hold."""
        kind, key = self._connection.execute("SELECT type, pk FROM pragma_table_info(?) WHERE name = 'id'", [table]).fetchone()
        if kind.upper() != "INTEGER" or not key:
            query = f"SELECT id FROM {table} WHERE typeof(id) <> 'integer' LIMIT 1"
            if row := self._connection.execute(query).fetchone():
                self._refuse_value(table, RELATION_COLUMNS[0], "a row", row[0])

    def _check_schema(self) -> dict[str, dict[str, str]]:
        """{table: {column: declared type}}, columns in the table's order."""
        found = {}
        for table, columns in schema_of(self.post_columns).items():
            present = dict(self._connection.execute("SELECT name, type FROM pragma_table_info(?)", [table]))
            if not present:
                raise StageError(f"{self.path}: no table {table}; expected {EXPECTED}")
            for column in columns:
                if column.name in present:
                    self._check_type(table, column, present[column.name])
                elif not column.optional:
                    raise StageError(f"{self.path}: table {table} has no column {column.name}; it has {', '.join(present)}")
            found[table] = present
        return found

    def _check_type(self, table: str, column: Column, declared: str) -> None:
        if ("INT" in declared.upper()) != column.integer:
            expected = "INTEGER" if column.integer else "text (VARCHAR)"
            raise StageError(f"{self.path}: {table}.{column.name} is declared {declared or 'untyped'}, expected {expected}")

    def _frame(self, table: str, columns: Sequence[Column], where: str, values: list[int]) -> pl.DataFrame:
        """The columns of a table as i64 and str, sorted by id, their values checked.

        Each column comes as one JSON array: a third of the time that a tuple for every row takes.
        """
        present = self._present[table]
        names = [column.name if column.name in present else "NULL" for column in columns]
        arrays = ", ".join(f"json_group_array(c{i})" for i in range(len(columns)))
        inner = ", ".join(f"{name} AS c{i}" for i, name in enumerate(names))
        query = f"SELECT {arrays} FROM (SELECT {inner} FROM {table} {where} ORDER BY id)"
        try:
            texts = self._connection.execute(query, values).fetchone()
        except sqlite3.OperationalError as error:
            self._refuse_cell(table, [c for c in columns if c.name in present], where, values)
            raise error from None
        found = [_series(column, text) for column, text in zip(columns, texts, strict=True)]
        if any(series is None for series in found):
            self._refuse_cell(table, [c for c in columns if c.name in present], where, values)
        self._refuse_doubles(table, found[0].to_numpy())
        return pl.DataFrame(found)

    def _refuse_doubles(self, table: str, ids: np.ndarray) -> None:
        """Refuse an id that stands twice, which a table without a primary key can hold."""
        again = np.flatnonzero(np.diff(ids) == 0)
        if len(again):
            raise StageError(f"{self.path}: table {table}: {table} {ids[again[0]]} is there more than once")

    def _refuse_cell(self, table: str, columns: Sequence[Column], where: str, values: list[int]) -> None:
        """Name the first cell that its column may not hold; come back where there is none."""
        names = ", ".join(f"CAST({c.name} AS BLOB), typeof({c.name})" for c in columns)
        for row, *cells in self._connection.execute(f"SELECT id, {names} FROM {table} {where} ORDER BY id", values):
            for column, cell, kind in zip(columns, cells[::2], cells[1::2], strict=True):
                allowed = {"integer" if column.integer else "text"} | ({"null"} if column.nullable else set())
                if kind not in allowed:
                    value = None if cell is None else cell if kind == "blob" else cell.decode(errors="backslashreplace")
                    self._refuse_value(table, column, f"{table} {row}", value)
                if kind == "text" and not _is_utf8(cell):
                    raise StageError(f"{self.path}: {table}.{column.name}: {table} {row} holds {cell!r}, which is not UTF-8 text")

    def _refuse_value(self, table: str, column: Column, row: str, value: object) -> NoReturn:
        expected = "an integer" if column.integer else "text"
        found = "has no value" if value is None else f"holds {value!r}"
        raise StageError(f"{self.path}: {table}.{column.name}: {row} {found}, expected {expected}")


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _series(column: Column, array: str) -> pl.Series | None:
    """A column from a JSON array of its cells; None where one of them is of a kind that the column may not hold."""
    if column.integer and (numbers := _numbers(array[1:-1])) is not None:
        return pl.Series(column.name, numbers)
    try:
        cells = json.loads(array)
    except ValueError:  # SQLite writes an infinite number as Inf, which is no JSON
        return None
    allowed = {int if column.integer else str} | ({type(None)} if column.nullable else set())
    return None if set(map(type, cells)) - allowed else pl.Series(column.name, cells, dtype=column.dtype())


def _numbers(text: str | None) -> np.ndarray | None:
    """The whole numbers of a text with commas between them; None where it holds anything else."""
    if not text:
        return np.empty(0, dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # numpy's word for a text that it cannot read to its end
        try:
            return np.fromstring(text, dtype=np.int64, sep=",")
        except (DeprecationWarning, ValueError):
            return None


def _refuse_unreadable(path: Path) -> None:
    if not path.is_file():
        raise StageError(f"{path}: no such metadata database; expected {EXPECTED_FILES} (set ingest.database)")
    with open(path, "rb") as file:
        if file.read(16) != b"SQLite format 3\0":
            raise StageError(f"{path}: not an SQLite database; expected {EXPECTED_FILES}")
    for suffix in ("-wal", "-journal"):
        beside = path.with_name(path.name + suffix)
        if beside.exists() and beside.stat().st_size:
            raise StageError(f"{path}: {beside.name} holds changes not yet in the file; close the program that writes it")
