"""Quality words at every threshold of every rating, and thresholds from the posts themselves."""

import itertools
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from booru.captioning.profiles import profile, profiles
from booru.captioning.quality import percentiles_of, quality_levels, quality_words
from booru.ratings import RATINGS

HAKUBOORU = [name for name, rules in profiles().items() if rules.quality]
TYPES = {"id": pl.Int64, "rating": pl.Int8, "fav_count": pl.Int32}


def words(name: str, *rows: tuple[int, int, int]) -> list[str | None]:
    """The word of each (id, rating, favourites)."""
    quality = profile(name).quality
    levels = quality_levels(quality, *np.array(rows).T)
    return [quality_words(quality)[level] if level >= 0 else None for level in levels]


@pytest.mark.parametrize("name", HAKUBOORU)
def test_every_threshold_of_every_rating_is_strict(name: str):
    quality = profile(name).quality
    below = [*[step.word for step in quality.above][1:], quality.otherwise]
    for rating, table in quality.percentiles.items():
        i = RATINGS.index(rating)
        for step, next_word in zip(quality.above, below, strict=True):
            at = table[step.percentile]
            assert words(name, (1, i, at), (1, i, at + 1)) == [next_word, step.word], (rating, step)


def test_epsilon_by_its_card():
    # Percentiles 90, 75, 60, 45, 30 and 10 of general posts: 27, 16, 10, 7, 4, 1.
    rows = [(1, 0, count) for count in (100, 28, 27, 16, 10, 7, 4, 1, 0, -5)]
    assert words("kohaku-xl-epsilon", *rows) == [
        "masterpiece", "masterpiece", "best quality", "great quality", "good quality", "normal quality", "low quality",
        "worst quality", "worst quality", "worst quality",
    ]  # fmt: skip


def test_delta_by_its_card():
    # Percentiles 95, 85, 75, 50, 25 and 10 of explicit posts: 262, 151, 106, 52, 22, 9.
    rows = [(1, 3, count) for count in (263, 262, 151, 106, 52, 22, 9)]
    assert words("kohaku-xl-delta", *rows) == [
        "masterpiece", "best quality", "great quality", "good quality", "normal quality", "low quality", "worst quality",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "last_id"),
    [
        ("kohaku-xl-delta", 7_000_000),
        ("kohaku-xl-epsilon", 7_100_000),
        ("hakubooru-delta", 7_000_000),
        ("hakubooru-epsilon", 7_500_000),
    ],
)
def test_the_newest_posts_have_no_word(name: str, last_id: int):
    assert words(name, (last_id, 3, 10_000), (last_id + 1, 3, 10_000), (last_id + 1, 0, 0)) == ["masterpiece", None, None]


def nearest_rank(favourites: list[int], percentile: int) -> int:
    """The smallest value that at least `percentile` percent of the values have or stay below."""
    ranked = sorted(max(value, 0) for value in favourites)
    return ranked[math.ceil(percentile * len(ranked) / 100) - 1]


POSTS = st.lists(
    st.tuples(
        st.one_of(st.integers(6_999_990, 7_100_010), st.sampled_from([7_000_000, 7_000_001, 7_100_000, 7_100_001])),
        st.one_of(st.none(), st.integers(0, 3)),
        st.one_of(st.none(), st.integers(-5, 20), st.integers(0, 5000)),
    ),
    max_size=60,
)


@pytest.mark.parametrize("name", ["kohaku-xl-delta", "kohaku-xl-epsilon"])
@settings(max_examples=80)
@given(posts=POSTS, cuts=st.lists(st.integers(0, 60), max_size=4))
def test_thresholds_of_the_posts_are_their_nearest_ranks(name: str, posts: list[tuple], cuts: list[int]):
    table = profile(name).quality
    frame = pl.DataFrame(posts, schema=TYPES, orient="row")
    quality = percentiles_of([frame], table)
    for i, rating in enumerate(RATINGS):
        counted = [count for post, r, count in posts if r == i and count is not None and post <= table.last_id]
        steps = [step.percentile for step in table.above]
        expected = {p: nearest_rank(counted, p) for p in steps} if counted else {p: table.percentiles[rating][p] for p in steps}
        assert {p: quality.percentiles[rating][p] for p in steps} == expected
    assert (quality.above, quality.otherwise, quality.last_id) == (table.above, table.otherwise, table.last_id)
    bounds = [0, *sorted(cuts), len(posts)]
    shards = [frame[start:end] for start, end in itertools.pairwise(bounds)]
    assert percentiles_of(shards, table) == quality


def test_without_any_post_the_table_stands():
    table = profile("kohaku-xl-epsilon").quality
    assert percentiles_of([], table) == table
