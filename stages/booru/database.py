"""danbooru2023's SQLite database: opened read-only, its schema checked, read in bounded pieces.

The schema is that of HakuBooru (revision 3b00e14): tables post, tag and posttagrelation. SQLite
stores whatever it is given in any column, so values are checked as well as declarations.
"""

import functools
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn, TypeVar

from repro.errors import StageError

import numpy as np
import polars as pl

from booru.ratings import check_ratings
from booru.tags import check_tags

ROWS_AT_ONCE = 50_000
RELATIONS_AT_ONCE = 500_000
Result = TypeVar("Result")


class Column(NamedTuple):
    """A column of the schema; `optional` ones are read as null where a revision of the database lacks them."""

    name: str
    integer: bool
    nullable: bool = False
    optional: bool = False


POST_COLUMNS = (
    Column("id", integer=True),
    Column("created_at", integer=False),
    Column("uploader_id", integer=True),
    Column("source", integer=False),
    Column("md5", integer=False, nullable=True),
    Column("parent_id", integer=True, nullable=True),
    Column("has_children", integer=True),
    Column("is_deleted", integer=True),
    Column("is_banned", integer=True),
    Column("pixiv_id", integer=True, nullable=True),
    Column("has_active_children", integer=True),
    Column("bit_flags", integer=True),
    Column("has_large", integer=True),
    Column("has_visible_children", integer=True),
    Column("image_width", integer=True),
    Column("image_height", integer=True),
    Column("file_size", integer=True),
    Column("file_ext", integer=False),
    Column("rating", integer=True),
    Column("score", integer=True),
    Column("up_score", integer=True),
    Column("down_score", integer=True),
    Column("fav_count", integer=True),
    Column("file_url", integer=False, nullable=True),
    Column("large_file_url", integer=False, nullable=True),
    Column("preview_file_url", integer=False, nullable=True),
    # Revisions published before the middle of 2024 do not have it.
    Column("updated_at", integer=False, nullable=True, optional=True),
)
TAG_COLUMNS = (
    Column("id", integer=True),
    Column("name", integer=False),
    Column("type", integer=True),
    Column("popularity", integer=True),
)
RELATION_COLUMNS = (Column("id", integer=True), Column("post_id", integer=True), Column("tag_id", integer=True))
SCHEMA = {"post": POST_COLUMNS, "tag": TAG_COLUMNS, "posttagrelation": RELATION_COLUMNS}


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

    Raises:
        StageError: no such file, not SQLite, changes not merged into the file, or a table or column
            that is missing or of another type; a broken page or value while reading.
    """

    @_sqlite_errors_in_words
    def __init__(self, path: Path):
        self.path = Path(path)
        _refuse_unreadable(self.path)
        uri = f"{self.path.resolve().as_uri()}?mode=ro&immutable=1"
        self._connection = sqlite3.connect(uri, uri=True, isolation_level=None)
        # The chosen ids live in memory, in SQLite's own temporary database.
        self._connection.execute("PRAGMA temp_store = MEMORY")
        self._connection.execute("CREATE TEMP TABLE chosen (id INTEGER PRIMARY KEY)")
        self._post_columns = self._check_schema()["post"]

    def __enter__(self) -> "BooruDatabase":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    @_sqlite_errors_in_words
    def has_relation_index(self) -> bool:
        """Whether the tags of a post can be looked up without reading the whole relation table."""
        query = (
            "SELECT 1 FROM pragma_index_list('posttagrelation') l, pragma_index_info(l.name) c"
            " WHERE c.seqno = 0 AND c.name = 'post_id'"
        )
        return self._connection.execute(query).fetchone() is not None

    @_sqlite_errors_in_words
    def tags(self) -> pl.DataFrame:
        """The tag table: id (i64), name, type (i64), popularity (i64), sorted by id; ids and types checked."""
        names = ", ".join(c.name for c in TAG_COLUMNS)
        return check_tags(self._frame("tag", TAG_COLUMNS, f"SELECT {names} FROM tag ORDER BY id"), f"{self.path}: table tag")

    @_sqlite_errors_in_words
    def post_ids(self, first: int, last: int) -> np.ndarray:
        """Ids (i64, ascending) of the posts with first <= id <= last."""
        rows = self._connection.execute("SELECT id FROM post WHERE id BETWEEN ? AND ? ORDER BY id", [first, last])
        return np.fromiter((i for (i,) in rows), dtype=np.int64)

    @_sqlite_errors_in_words
    def posts(self, ids: np.ndarray, known_tags: np.ndarray) -> pl.DataFrame:
        """The posts of these ids, sorted by id, with `tags` (List[i32]): tag ids in posttagrelation.id order.

        That order is what HakuBooru's unordered query yields, and so the order of its captions.
        Relations to tags outside `known_tags` are dropped, as its inner join does.
        """
        self._connection.execute("DELETE FROM temp.chosen")
        self._connection.executemany("INSERT INTO temp.chosen VALUES (?)", ((int(i),) for i in ids))
        names = ", ".join(f"p.{c.name}" if c.name in self._post_columns else "NULL" for c in POST_COLUMNS)
        query = f"SELECT {names} FROM temp.chosen c CROSS JOIN post p ON p.id = c.id ORDER BY c.id"
        posts = check_ratings(self._frame("post", POST_COLUMNS, query), f"{self.path}: table post")
        lists = self._chosen_relations(known_tags).group_by("id", maintain_order=True).agg("tags")
        posts = posts.join(lists, on="id", how="left", maintain_order="left", validate="1:1")
        return posts.with_columns(pl.col("tags").fill_null([]))

    def _chosen_relations(self, known_tags: np.ndarray) -> pl.DataFrame:
        """Columns id (of the post) and tags (one tag id), in the order (post, posttagrelation.id)."""
        # ORDER BY c.id, r.id and not r.post_id: this way the index gives the order and nothing is sorted.
        cursor = self._connection.execute(
            "SELECT c.id, r.tag_id FROM temp.chosen c CROSS JOIN posttagrelation r ON r.post_id = c.id ORDER BY c.id, r.id"
        )
        pieces = [np.empty((0, 2), dtype=np.int64)]
        while rows := cursor.fetchmany(RELATIONS_AT_ONCE):
            piece = np.array(rows)
            if piece.dtype != np.int64:
                post, tag = next(row for row in rows if type(row[1]) is not int)
                self._refuse_value("posttagrelation", RELATION_COLUMNS[2], f"a relation of post {post}", tag)
            pieces.append(piece)
        relations = np.concatenate(pieces)
        relations = relations[np.isin(relations[:, 1], known_tags)]
        return pl.DataFrame({"id": relations[:, 0], "tags": relations[:, 1].astype(np.int32)})

    def _check_schema(self) -> dict[str, dict[str, str]]:
        """{table: {column: declared type}} of the tables that are read."""
        found = {}
        for table, columns in SCHEMA.items():
            present = dict(self._connection.execute("SELECT name, type FROM pragma_table_info(?)", [table]))
            if not present:
                raise StageError(f"{self.path}: no table {table}; expected danbooru2023's tables {', '.join(SCHEMA)}")
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

    def _frame(self, table: str, columns: Sequence[Column], query: str) -> pl.DataFrame:
        cursor = self._connection.execute(query)
        schema = {c.name: pl.Int64 if c.integer else pl.String for c in columns}
        pieces = [pl.DataFrame(schema=schema)]
        while rows := cursor.fetchmany(ROWS_AT_ONCE):
            for column, cells in zip(columns, zip(*rows, strict=True), strict=True):
                self._check_cells(table, column, [row[0] for row in rows], cells)
            pieces.append(pl.DataFrame(rows, schema=schema, orient="row", strict=True))
        return pl.concat(pieces, rechunk=True)

    def _check_cells(self, table: str, column: Column, ids: Sequence[int], cells: Sequence[object]) -> None:
        allowed = {int if column.integer else str} | ({type(None)} if column.nullable else set())
        if set(map(type, cells)) - allowed:
            row = next(i for i, cell in enumerate(cells) if type(cell) not in allowed)
            self._refuse_value(table, column, f"{table} {ids[row]}", cells[row])

    def _refuse_value(self, table: str, column: Column, row: str, value: object) -> NoReturn:
        expected = "an integer" if column.integer else "text"
        found = "has no value" if value is None else f"holds {value!r}"
        raise StageError(f"{self.path}: {table}.{column.name}: {row} {found}, expected {expected}")


def _refuse_unreadable(path: Path) -> None:
    if not path.is_file():
        raise StageError(f"{path}: no such metadata database; expected danbooru2023's SQLite file (set select.database)")
    with open(path, "rb") as file:
        if file.read(16) != b"SQLite format 3\0":
            raise StageError(f"{path}: not an SQLite database; expected danbooru2023's .db file")
    for suffix in ("-wal", "-journal"):
        beside = path.with_name(path.name + suffix)
        if beside.exists() and beside.stat().st_size:
            raise StageError(f"{path}: {beside.name} holds changes not yet in the file; close the program that writes it")
