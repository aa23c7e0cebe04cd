"""Quality words of captions, from a post's favourites among those of its rating, or from a model's score.

The card of Kohaku XL Epsilon speaks of percentiles 90, 75, 60, 45, 30 and 10 (Delta: 95, 85, 75, 50,
25, 10). HakuBooru (quality_tag, quality_tag_new) compares with fixed tables of whole numbers, strictly,
and gives the newest posts no word at all: their favourites are still growing.
"""

from collections.abc import Iterable

import numpy as np
import polars as pl

from booru.captioning.profiles import Quality, ScoreWords
from booru.ratings import RATINGS

# No post has as many; a number beyond it, from a damaged database, must not cost memory.
MOST_FAVOURITES = 10_000_000


def quality_words(quality: Quality | ScoreWords) -> list[str]:
    """The words from the lowest to the highest; `quality_levels` and `score_levels` count in them."""
    return [quality.otherwise, *(step.word for step in reversed(quality.above))]


def quality_levels(quality: Quality, ids: np.ndarray, ratings: np.ndarray, favourites: np.ndarray) -> np.ndarray:
    """For each post the place (i8) of its word in `quality_words`: how many thresholds of its rating its favourites
    exceed, strictly; -1 above quality.last_id."""
    levels = np.full(len(ids), -1, dtype=np.int8)
    for rating, table in quality.percentiles.items():
        thresholds = [table[step.percentile] for step in reversed(quality.above)]
        chosen = (ratings == RATINGS.index(rating)) & (ids <= quality.last_id)
        levels[chosen] = np.searchsorted(thresholds, favourites[chosen], side="left")
    return levels


def score_levels(words: ScoreWords, scores: np.ndarray) -> np.ndarray:
    """For each score (f64, NaN where there is none) how many thresholds it exceeds, strictly (i8); -1 for NaN."""
    thresholds = [step.score for step in reversed(words.above)]
    return np.where(np.isnan(scores), -1, np.searchsorted(thresholds, scores, side="left")).astype(np.int8)


def percentiles_of(frames: Iterable[pl.DataFrame], quality: Quality) -> Quality:
    """The same words with thresholds from the posts themselves: percentile p of a rating is the smallest number of
    favourites that at least p percent of the rating's posts have or stay below (nearest rank, whole numbers only).

    Only posts that can get a word count: with favourites, ids up to quality.last_id. A rating without any keeps the
    table's thresholds.

    Args:
        frames: columns id, rating (0..3), fav_count, shard by shard; memory is O(shard + largest number of favourites).
    """
    counts = {rating: np.zeros(1, dtype=np.int64) for rating in RATINGS}
    for frame in frames:
        counted = frame.filter(pl.col("id") <= quality.last_id)
        for i, rating in enumerate(RATINGS):
            favourites = counted.filter(pl.col("rating") == i)["fav_count"].drop_nulls().clip(0, MOST_FAVOURITES).to_numpy()
            counts[rating] = _added(counts[rating], np.bincount(favourites))
    steps = sorted(step.percentile for step in quality.above)
    tables = {
        rating: _nearest_ranks(counts[rating], steps) if counts[rating].any() else quality.percentiles[rating]
        for rating in RATINGS
    }
    return quality.model_copy(update={"percentiles": tables})


def _added(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    total = np.zeros(max(len(a), len(b)), dtype=np.int64)
    total[: len(a)] += a
    total[: len(b)] += b
    return total


def _nearest_ranks(counts: np.ndarray, percentiles: list[int]) -> dict[int, int]:
    """{percentile: favourites}; counts[v] is the number of posts with v favourites."""
    below = np.cumsum(counts)
    return {p: int(np.searchsorted(below, -(-p * below[-1] // 100))) for p in percentiles}
