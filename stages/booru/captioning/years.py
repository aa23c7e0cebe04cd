"""Year words of captions, from a post's upload date."""

import warnings
from collections.abc import Sequence
from datetime import datetime
from functools import cache

import numpy as np
import polars as pl

from booru.captioning.profiles import YearWord

# ISO 8601, all that danbooru2023 holds. Fewer digits ("12-3-4") are no such date: dateutil takes that for 2004.
_TIME = r"(T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?([+-]\d\d:\d\d|Z)?)?$"
_ISO = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}" + _TIME
# Days that every month has need no look at the calendar.
_ISO_TO_THE_28TH = r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])" + _TIME
NO_YEAR = 0


def upload_years(created_at: pl.Series) -> np.ndarray:
    """The year (i32) of each date as it is written, in its own time zone; 0 where there is none.

    HakuBooru (3b00e14) parses with dateutil, keeps the local year and falls back to 0, too. A text without a year
    (a time alone) is 0 here; the reference takes the year of the day on which it runs.
    """
    plain = created_at.str.contains(_ISO_TO_THE_28TH).fill_null(False)
    years = created_at.str.slice(0, 4).cast(pl.Int32, strict=False).fill_null(NO_YEAR).to_numpy(writable=True)
    others = np.flatnonzero(~plain.to_numpy())
    years[others] = _years_by_calendar(created_at.gather(others))
    return years


def _years_by_calendar(created_at: pl.Series) -> np.ndarray:
    date = created_at.str.slice(0, 10).str.to_date("%Y-%m-%d", strict=False)
    iso = (date.is_not_null() & created_at.str.contains(_ISO).fill_null(False)).to_numpy()
    years = np.where(iso, date.dt.year().fill_null(NO_YEAR).to_numpy(), NO_YEAR).astype(np.int32)
    for i in np.flatnonzero(~iso):
        years[i] = _year_of_text(created_at[int(i)] or "")
    return years


@cache
def _year_of_text(text: str) -> int:
    """The year that dateutil finds in a text that is not ISO 8601, 0 if none."""
    from dateutil import parser  # late: hardly any database holds such a text

    dates = parser.parserinfo()
    # It reads years of two digits as near to the present; this present stands still.
    dates._year, dates._century = 2024, 2000
    years = set()
    for default in (datetime(2000, 1, 1), datetime(2004, 1, 1)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", parser.UnknownTimezoneWarning)
                years.add(parser.parser(dates).parse(text, default=default, ignoretz=True).year)
        except (parser.ParserError, OverflowError):
            return NO_YEAR
    return years.pop() if len(years) == 1 else NO_YEAR


def year_rows(years: np.ndarray, words: Sequence[YearWord]) -> np.ndarray:
    """For each year the place (i8) of the first row of `words` that holds it, -1 where none does."""
    rows = np.full(len(years), -1, dtype=np.int8)
    for place in reversed(range(len(words))):
        rows[(years >= words[place].first) & (years <= words[place].last)] = place
    return rows
