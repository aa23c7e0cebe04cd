"""Columns of lists, one list a row, made of flat arrays."""

import numpy as np
import polars as pl


def grouped(row: np.ndarray, items: pl.Series) -> pl.DataFrame:
    """Columns row and item: the items of each row that has any, as a list in their own order; `row` is sorted."""
    frame = pl.DataFrame({"row": row, "item": items}).set_sorted("row")
    return frame.group_by("row", maintain_order=True).agg("item")


def lists_of(row: np.ndarray, items: pl.Series, rows: int) -> pl.Series:
    """The items of each of `rows` rows as one list a row, empty where it has none; `row` is sorted."""
    lists = grouped(row, items)
    if lists.height < rows:
        every = pl.DataFrame({"row": np.arange(rows, dtype=row.dtype)})
        lists = every.join(lists, on="row", how="left", maintain_order="left").with_columns(pl.col("item").fill_null([]))
    return lists["item"]
