"""Year words: local years, both bounds, and the reference's answer for dates that are none."""

import polars as pl
import pytest

from booru.captioning.profiles import profile
from booru.captioning.years import upload_year, year_word


@pytest.mark.parametrize(
    ("created_at", "word"),
    [
        ("2004-12-31T23:59:59.999-05:00", "early"),
        ("2005-01-01T00:00:00.000-05:00", "old"),
        ("2010-12-31T23:30:00.000-05:00", "old"),
        ("2011-01-01T00:00:00.000-05:00", "early"),
        ("2014-12-31", "early"),
        ("2015-06-17", "mid"),
        ("2017-12-31", "mid"),
        ("2018-01-01", "recent"),
        ("2020-12-31", "recent"),
        ("2021-01-01", "newest"),
        ("2024-12-31", "newest"),
        ("2025-01-01", None),
        ("", "early"),
        ("unknown", "early"),
    ],
)
def test_year_word(created_at, word):
    frame = pl.DataFrame({"created_at": [created_at]})
    assert frame.select(year_word(upload_year(pl.col("created_at")), profile("kohaku-epsilon").years)).item() == word
