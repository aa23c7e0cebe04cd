"""danbooru2023's metadata as one parquet a table, as it is published beside the SQLite file."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from repro.errors import StageError

import numpy as np
import polars as pl

from booru.metadata.schema import EXPECTED, RELATION_COLUMNS, TAG_COLUMNS, Column, check_id_bounds, schema_of
from booru.ratings import check_ratings
from booru.tags import check_tags

RELATIONS_AT_ONCE = 2_000_000


class BooruTables:
    """A folder with post.parquet, tag.parquet and posttagrelation.parquet; a context manager, as BooruDatabase is.

    Args:
        post_columns: what will be read of a post; the file need not have more.

    Raises:
        StageError: a file is missing or not parquet, a column is missing or of another type, or a value does not fit.
    """

    def __init__(self, path: Path, post_columns: Sequence[Column]):
        self.path, self.post_columns = Path(path), post_columns
        for table, columns in schema_of(post_columns).items():
            self._check_schema(table, columns)

    def __enter__(self) -> "BooruTables":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def tags(self) -> pl.DataFrame:
        """The tag table: id (i64), name, type (i64), popularity (i64), sorted by id; ids and types checked."""
        tags = self._read("tag", TAG_COLUMNS, pl.lit(True)).sort("id", maintain_order=True)
        tags = self._without_doubles("tag", tags)
        return check_tags(tags, f"{self._file('tag')}")

    def id_bounds(self) -> tuple[int, int] | None:
        """The lowest and the highest id of a post; None without posts."""
        bounds = self._scan("post").select(pl.min("id").alias("first"), pl.max("id").alias("last"), pl.col("id").null_count())
        first, last, missing = self._collect("post", bounds).row(0)
        if missing:
            self._refuse("post", "post.id: a row has no value, expected an integer")
        return None if first is None else check_id_bounds(first, last, str(self._file("post")))

    def post_count(self) -> int:
        return self._collect("post", self._scan("post").select(pl.len())).item()

    def posts(self, first: int, last: int) -> pl.DataFrame:
        """The posts with first <= id <= last, sorted by id: i64 and str columns; ratings checked.

        A row that stands twice counts once; two rows of one id that differ are an error.
        """
        posts = self._read("post", self.post_columns, pl.col("id").is_between(first, last)).sort("id", maintain_order=True)
        return check_ratings(self._without_doubles("post", posts), str(self._file("post")))

    def relation_count(self) -> int:
        return self._collect("posttagrelation", self._scan("posttagrelation").select(pl.len())).item()

    def relation_readers(self) -> list[Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]]:
        """The way to read post ids and tag ids (i64) of all relations, in bounded pieces and in the order of their ids."""
        return [self._relations]

    def _relations(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        last = None
        for first in range(0, self.relation_count(), RELATIONS_AT_ONCE):
            piece = self._scan("posttagrelation").slice(first, RELATIONS_AT_ONCE)
            piece = self._collect("posttagrelation", piece.select(pl.col(c.name).cast(c.dtype()) for c in RELATION_COLUMNS))
            for name in piece.columns:
                if piece[name].null_count():
                    self._refuse("posttagrelation", f"row {first + piece[name].is_null().arg_max()} has no {name}")
            ids = piece["id"].to_numpy()
            if (last is not None and ids[0] <= last) or not (np.diff(ids) > 0).all():
                self._refuse("posttagrelation", "its rows are not in ascending order of id, which is the order of tags; sort it")
            last = int(ids[-1])
            yield piece["post_id"].to_numpy(), piece["tag_id"].to_numpy()

    def _file(self, table: str) -> Path:
        return self.path / f"{table}.parquet"

    def _scan(self, table: str) -> pl.LazyFrame:
        return pl.scan_parquet(self._file(table))

    def _check_schema(self, table: str, columns: Sequence[Column]) -> None:
        path = self._file(table)
        if not path.is_file():
            raise StageError(f"{path}: no such file; expected {EXPECTED} as one parquet each")
        try:
            present = pl.read_parquet_schema(path)
        except (pl.exceptions.PolarsError, OSError):
            raise StageError(f"{path}: not a parquet file, or cut short; fetch it again") from None
        for column in columns:
            if column.name not in present:
                if column.optional:
                    continue
                raise StageError(f"{path}: table {table} has no column {column.name}; it has {', '.join(present)}")
            kind = present[column.name]
            fits = kind.is_integer() or kind == pl.Boolean if column.integer else kind == pl.String
            if not fits and kind != pl.Null:
                expected = "integers" if column.integer else "text"
                raise StageError(f"{path}: {table}.{column.name} holds {kind}, expected {expected}")

    def _read(self, table: str, columns: Sequence[Column], condition: pl.Expr) -> pl.DataFrame:
        present = pl.read_parquet_schema(self._file(table))
        values = {c.name: pl.col(c.name) if c.name in present else pl.lit(None) for c in columns}
        chosen = self._scan(table).filter(condition).select(values[c.name].cast(c.dtype()).alias(c.name) for c in columns)
        frame = self._collect(table, chosen)
        for column in columns:
            if not column.nullable and (bad := frame.filter(pl.col(column.name).is_null()).head(1)).height:
                self._refuse(table, f"{table}.{column.name}: {table} {bad['id'][0]} has no value")
        return frame

    def _collect(self, table: str, query: pl.LazyFrame) -> pl.DataFrame:
        try:
            return query.collect(engine="in-memory")
        except (pl.exceptions.PolarsError, OSError) as error:
            self._refuse(table, f"cannot be read ({str(error).splitlines()[0]}); fetch it again")

    def _without_doubles(self, table: str, frame: pl.DataFrame) -> pl.DataFrame:
        """The frame, sorted by id, without rows that stand twice."""
        same_id = (frame["id"] == frame["id"].shift(1)).fill_null(False)
        if not same_id.any():
            return frame
        same_row = frame.select(pl.all_horizontal(pl.all().eq_missing(pl.all().shift(1)))).to_series()
        differing = frame.filter(same_id & ~same_row).head(1)
        if differing.height:
            self._refuse(table, f"{table} {differing['id'][0]} is there twice with different values")
        return frame.filter(~same_id)

    def _refuse(self, table: str, complaint: str) -> NoReturn:
        raise StageError(f"{self._file(table)}: {complaint}")
