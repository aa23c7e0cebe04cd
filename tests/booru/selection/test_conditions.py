"""Conditions: each asks one thing, nulls fail, and the settings must be able to hold."""

from repro.errors import StageError
from repro.params import Conditions

import polars as pl
import pytest
from pydantic import ValidationError
from tiny_booru import METADATA_COLUMNS, TAGS, metadata_post

from booru.selection.conditions import REASONS, all_met, conditions_of

TAG_TABLE = pl.DataFrame([(*tag, 1) for tag in TAGS], schema=["id", "name", "type", "popularity"], orient="row")


def meeting(posts: list[dict], **settings) -> list[int]:
    """Ids of the posts that meet the conditions."""
    frame = pl.DataFrame(posts, schema=METADATA_COLUMNS)
    conditions = conditions_of(Conditions.model_validate(settings), TAG_TABLE, "select")
    met = [condition.met_by(frame) for condition in conditions]
    assert all(one.dtype == bool and one.shape == (len(posts),) for one in met)
    return frame["id"].filter(pl.Series(all_met(conditions, frame))).to_list()


def test_nothing_set_asks_nothing():
    assert conditions_of(Conditions(), TAG_TABLE, "select") == []
    assert meeting([metadata_post(1, rating=None, tags=[])]) == [1]


@pytest.mark.parametrize(
    ("column", "values", "settings", "met"),
    [
        ("rating", [0, 1, 2, 3, None], {"ratings": ["general", "explicit"]}, [0, 3]),
        ("score", [-5, -4, 0, None], {"min_score": -4}, [1, 2]),
        ("fav_count", [0, 9, 10, None], {"min_favourites": 10}, [2]),
        ("fav_count", [0, 9, None], {"min_favourites": 0}, [0, 1]),
        ("tags", [[1, 2], [2, 1, 9], [1], [], [1, 1]], {"required_tags": ["1girl", "solo"]}, [0, 1]),
        ("tags", [[1, 2], [3], [], [9, 4]], {"excluded_tags": ["solo", "highres"]}, [1, 2]),
        ("tags", [[1, 2], [3, 3], [3, 1], []], {"at_least": {"count": 2, "tags": ["1girl", "solo", "long_hair"]}}, [0, 2]),
        ("tags", [[1, 2], [3], []], {"min_tags": 2}, [0]),
    ],
)  # fmt: skip
def test_each_condition(column, values, settings, met):
    assert meeting([metadata_post(i, **{column: value}) for i, value in enumerate(values)], **settings) == met


DAYS = [
    "2019-12-31T23:59:59.999-05:00", "2020-01-01T00:00:00.000-05:00", "2020-06-15", "2020-12-31T23:59:59.999-05:00",
    "2021-01-01T00:00:00.000-05:00", None, "", "yesterday", "2020-13-01T00:00:00", "10:30",
]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "met"),
    [
        ({"first_date": "2020-01-01", "last_date": "2020-12-31"}, [1, 2, 3]),
        ({"first_date": "2020-12-31"}, [3, 4]),
        ({"last_date": "2019-12-31"}, [0]),
        ({}, list(range(10))),
    ],
)
def test_dates_are_local_days_and_both_included(settings, met):
    assert meeting([metadata_post(i, created_at=day) for i, day in enumerate(DAYS)], **settings) == met


def test_a_column_without_any_value():
    posts = [metadata_post(i, created_at=None, score=None, rating=None) for i in range(3)]
    for settings in ({"first_date": "2020-01-01"}, {"min_score": 0}, {"ratings": ["general"]}):
        assert meeting(posts, **settings) == []


def test_conditions_are_asked_in_the_order_of_the_reasons():
    settings = Conditions.model_validate({
        "ratings": ["general"], "min_score": 1, "min_favourites": 1, "first_date": "2020-01-01", "required_tags": ["solo"],
        "excluded_tags": ["1girl"], "at_least": {"count": 1, "tags": ["highres"]}, "min_tags": 3,
    })  # fmt: skip
    assert tuple(condition.reason for condition in conditions_of(settings, TAG_TABLE, "select")) == REASONS


@pytest.mark.parametrize("key", ["required_tags", "excluded_tags", "at_least.tags"])
def test_unknown_tags_are_named_with_their_key(key):
    settings = {"at_least": {"count": 1, "tags": ["sollo"]}} if key == "at_least.tags" else {key: ["sollo"]}
    with pytest.raises(StageError, match=rf"^select\.{key}: the metadata has no tag 'sollo'; the nearest are solo"):
        meeting([metadata_post(1)], **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"required_tags": ["solo"], "excluded_tags": ["1girl", "solo"]}, "tag solo is both required and excluded"),
        ({"at_least": {"count": 3, "tags": ["a", "b", "b"]}}, r"at_least.count \(3\) is more than its 2 tags"),
        ({"first_date": "2020-02-01", "last_date": "2020-01-31"}, "is before first_date"),
        ({"first_date": "2023-02-29"}, "2023-02-29 is not a day of the calendar"),
        ({"first_date": "2023-2-1"}, "pattern"),
        ({"ratings": []}, "at least 1 item"),
    ],
)
def test_settings_that_cannot_hold_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        Conditions.model_validate(settings)
