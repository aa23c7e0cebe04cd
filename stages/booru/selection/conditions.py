"""Conditions on posts, as the parameters state them: one test each, and the reason a post that fails it gets.

A value that a post does not have meets no condition: a floor on the score leaves posts without a
score out. Dates are days as written, in the uploader's local time, like the years of captions.
"""

import datetime
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from repro.params import Conditions

import numpy as np
import polars as pl

from booru.ratings import RATINGS
from booru.selection.named_tags import NamedTags

RATING = "rating"
SCORE = "score"
FAVOURITES = "favourites"
DATE = "upload date"
REQUIRED = "required tag missing"
EXCLUDED = "excluded tag"
AT_LEAST = "too few of the tags asked for"
MIN_TAGS = "too few tags"
# The order in which conditions are asked: a post gets the first reason that holds.
REASONS = (RATING, SCORE, FAVOURITES, DATE, REQUIRED, EXCLUDED, AT_LEAST, MIN_TAGS)
ISO_DAY = len("2024-05-19")


class Condition(NamedTuple):
    """`met_by` gives one bool a post of a frame that has the column."""

    reason: str
    column: str
    met_by: Callable[[pl.DataFrame], np.ndarray]


def conditions_of(settings: Conditions, tags: pl.DataFrame, key: str) -> list[Condition]:
    """The conditions that are set, in the order of `REASONS`.

    Args:
        tags: the tag table.
        key: the parameter section that holds the settings, for errors.

    Raises:
        StageError: a tag that the metadata does not have.
    """
    return [*_on_columns(settings), *_on_tags(settings, tags, key)]


def all_met(conditions: Iterable[Condition], posts: pl.DataFrame) -> np.ndarray:
    """By post whether every condition is met."""
    met = np.ones(posts.height, dtype=bool)
    for condition in conditions:
        met &= condition.met_by(posts)
    return met


def _on_columns(settings: Conditions) -> Iterator[Condition]:
    """Conditions on a post's own values."""
    if settings.ratings is not None:
        allowed = [RATINGS.index(name) for name in settings.ratings]
        yield Condition(RATING, "rating", _holds(pl.col("rating").is_in(allowed)))
    if settings.min_score is not None:
        yield Condition(SCORE, "score", _holds(pl.col("score") >= settings.min_score))
    if settings.min_favourites is not None:
        yield Condition(FAVOURITES, "fav_count", _holds(pl.col("fav_count") >= settings.min_favourites))
    if settings.first_date is not None or settings.last_date is not None:
        first = datetime.date.fromisoformat(settings.first_date) if settings.first_date else datetime.date.min
        last = datetime.date.fromisoformat(settings.last_date) if settings.last_date else datetime.date.max
        day = pl.col("created_at").str.slice(0, ISO_DAY).str.to_date("%Y-%m-%d", strict=False)
        yield Condition(DATE, "created_at", _holds(day.is_between(first, last)))


def _holds(expression: pl.Expr) -> Callable[[pl.DataFrame], np.ndarray]:
    """The test whether an expression is true; null is not."""
    return lambda posts: posts.select(expression.fill_null(False).alias("holds"))["holds"].to_numpy()


def _on_tags(settings: Conditions, tags: pl.DataFrame, key: str) -> Iterator[Condition]:
    """Conditions on a post's tags."""
    if settings.required_tags:
        required = NamedTags(settings.required_tags, tags, f"{key}.required_tags")
        yield Condition(REQUIRED, "tags", lambda posts: required.held(posts["tags"]) == len(required.names))
    if settings.excluded_tags:
        excluded = NamedTags(settings.excluded_tags, tags, f"{key}.excluded_tags")
        yield Condition(EXCLUDED, "tags", lambda posts: excluded.held(posts["tags"]) == 0)
    if settings.at_least is not None:
        asked, count = NamedTags(settings.at_least.tags, tags, f"{key}.at_least.tags"), settings.at_least.count
        yield Condition(AT_LEAST, "tags", lambda posts: asked.held(posts["tags"]) >= count)
    if settings.min_tags:
        yield Condition(MIN_TAGS, "tags", lambda posts: posts["tags"].list.len().to_numpy() >= settings.min_tags)
