"""Quality words at every threshold of every rating."""

import polars as pl
import pytest

from booru.captioning.profiles import profile, profiles
from booru.captioning.quality import quality_word
from booru.ratings import RATINGS


def words(name: str, rows: list[tuple[int, int, int]]) -> list[str | None]:
    frame = pl.DataFrame(rows, schema=["id", "rating", "fav_count"], orient="row")
    return frame.select(quality_word(profile(name).quality).alias("word"))["word"].to_list()


@pytest.mark.parametrize("name", list(profiles()))
def test_thresholds_are_strict(name):
    quality = profile(name).quality
    for rating, table in quality.percentiles.items():
        below = [*[step.word for step in quality.above][1:], quality.otherwise]
        for step, next_word in zip(quality.above, below, strict=True):
            at = table[step.percentile]
            i = RATINGS.index(rating)
            assert words(name, [(1, i, at), (1, i, at + 1)]) == [next_word, step.word], (rating, step)


def test_epsilon_by_the_card():
    # Percentiles 90, 75, 60, 45, 30 and 10 of general posts: 27, 16, 10, 7, 4, 1.
    rows = [(1, 0, count) for count in (100, 28, 27, 16, 10, 7, 4, 1, 0, -5)]
    assert words("kohaku-epsilon", rows) == [
        "masterpiece", "masterpiece", "best quality", "great quality", "good quality", "normal quality", "low quality",
        "worst quality", "worst quality", "worst quality",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "last_id"), [("kohaku-delta", 7_000_000), ("kohaku-epsilon", 7_100_000), ("hakubooru-head", 7_500_000)]
)
def test_no_word_above_the_last_id(name, last_id):
    assert words(name, [(last_id, 3, 10_000), (last_id + 1, 3, 10_000)]) == ["masterpiece", None]
