"""Year words of captions, from a post's upload date."""

from collections.abc import Sequence

import polars as pl

from booru.profiles import YearWord


def upload_year(created_at: pl.Expr) -> pl.Expr:
    """The year (i32) of an ISO date as it is written, in its own time zone; 0 where there is none.

    HakuBooru parses the text with dateutil, keeps the local year and falls back to 0, too.
    """
    return created_at.str.slice(0, 4).cast(pl.Int32, strict=False).fill_null(0)


def year_word(year: pl.Expr, years: Sequence[YearWord]) -> pl.Expr:
    """The word of the first row that holds the year, null where none does."""
    return pl.coalesce(
        *(pl.when(year.is_between(row.first, row.last)).then(pl.lit(row.word)) for row in years), pl.lit(None, pl.String)
    )
