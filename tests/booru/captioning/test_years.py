"""Year words: local years, both bounds, and the reference's answer for dates that are no ISO 8601."""

import warnings
from datetime import datetime

import polars as pl
import pytest
from dateutil import parser
from hypothesis import given, settings
from hypothesis import strategies as st

from booru.captioning.profiles import profile
from booru.captioning.years import upload_years, year_rows


def year(created_at: str | None) -> int:
    return upload_years(pl.Series([created_at], dtype=pl.String)).item()


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
        ("2024-12-31T23:59:59.999-05:00", "newest"),
        ("2025-01-01", None),
        ("", "early"),
        (None, "early"),
        ("unknown", "early"),
    ],
)
def test_hakubooru_words_of_years(created_at: str | None, word: str | None):
    rows = profile("kohaku-xl-epsilon").years
    place = year_rows(upload_years(pl.Series([created_at], dtype=pl.String)), rows).item()
    assert (rows[place].word if place >= 0 else None) == word


@pytest.mark.parametrize(
    ("created_at", "expected"),
    [
        ("2016-12-31T23:59:59.999-05:00", 2016),
        ("2017-01-01T00:30:00.000+09:00", 2017),
        ("2016-02-29", 2016),
        ("2016-03-04T05:06:07Z", 2016),
        ("2016-03-04 05:06:07", 2016),
        ("Mar 4 2012", 2012),
        ("Fri Mar 04 05:06:07 -0500 2016", 2016),
        ("04-03-2015", 2015),
        ("31/12/2015", 2015),
        ("20150304", 2015),
        ("2015-3-4", 2015),
        ("2015", 2015),
        ("12-3-4", 2004),
        ("1-1-1", 2001),
        ("99-01-01", 1999),
        ("4 Mar 15", 2015),
        ("2019-99-99", 0),
        ("2017-02-29", 0),
        ("2012-02-30", 0),
        ("2012-02-30T05:06:07.089-05:00", 0),
        ("2016-03-04T25:06:07.089-05:00", 0),
        ("10:30", 0),
        ("Mar 4", 0),
        ("99999999999999999999999999", 0),
        ("", 0),
        (None, 0),
        (" ", 0),
        ("unknown", 0),
        ("0000-00-00", 0),
    ],
)
def test_years_of_texts(created_at: str | None, expected: int):
    assert year(created_at) == expected


def test_years_of_two_digits_do_not_hang_on_the_day_of_the_run():
    assert [year(f"1/2/{n:02d}") for n in (13, 24, 32, 73, 74, 99)] == [2013, 2024, 2032, 2073, 1974, 1999]


def answer_of_dateutil(text: str) -> int | None:
    """The reference's year, None where it would depend on the day of the run."""
    years = set()
    for default in (datetime(2000, 1, 1), datetime(2004, 1, 1)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", parser.UnknownTimezoneWarning)
            try:
                years.add(parser.parse(text, default=default).year)
            except Exception:  # the reference's `except:` as well
                years.add(0)
    return years.pop() if len(years) == 1 else None


# Texts in which a year, where there is one, has four digits: those of two are read as near to the present.
FOUR_DIGITS = st.integers(1900, 2099).map(str)
WORDS = st.sampled_from(["Mar", "Fri", "March", "T", "am", "UTC", "Z", "of", "é", "EST", "::", "\n"])
SHORT = st.sampled_from(["0", "1", "03", "4", "29", "30", "31", "+05:00", "-0500", "05:06", "05:06:07", "1e3"])
SEPARATORS = st.sampled_from(["-", "/", " ", ".", ", ", "T", ""])


@st.composite
def texts(draw) -> str:
    parts = draw(st.permutations([draw(FOUR_DIGITS), *draw(st.lists(st.one_of(WORDS, SHORT), max_size=4))]))
    return "".join(part + draw(SEPARATORS) for part in parts)


@settings(max_examples=300)
@given(text=texts())
def test_texts_with_a_year_are_read_as_dateutil_reads_them(text: str):
    expected = answer_of_dateutil(text)
    # Digits that run together can make years of two digits.
    if expected is not None and (expected == 0 or str(expected) in text):
        assert year(text) == expected


@settings(max_examples=100)
@given(moment=st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)), zone=st.sampled_from(["", "Z", "-05:00", "+09:00"]))
def test_iso_texts_have_their_local_year(moment: datetime, zone: str):
    assert year(moment.isoformat(timespec="milliseconds") + zone) == moment.year
    assert year(moment.date().isoformat()) == moment.year


def test_many_dates_at_once_are_read_as_one_by_one():
    dates = ["2016-03-04T05:06:07.089-05:00", None, "Mar 4 2012", "", "2012-02-30", "2011-01-01"] * 3
    assert upload_years(pl.Series(dates)).tolist() == [year(date) for date in dates] == [2016, 0, 2012, 0, 0, 2011] * 3
    assert upload_years(pl.Series([], dtype=pl.String)).tolist() == []
