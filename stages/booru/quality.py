"""Quality words of captions, from a post's favourites among those of its rating.

The card of Kohaku XL Epsilon speaks of percentiles 90, 75, 60, 45, 30 and 10 (Delta: 95, 85, 75, 50,
25, 10). HakuBooru (quality_tag, quality_tag_new) compares with fixed tables of whole numbers, strictly,
and gives the newest posts no word at all: their favourites are still growing.
"""

import polars as pl

from booru.profiles import Quality
from booru.ratings import RATINGS


def quality_word(quality: Quality) -> pl.Expr:
    """The quality word from columns id, rating (0..3) and fav_count; null above quality.last_id."""
    words = [
        pl.when((pl.col("rating") == RATINGS.index(rating)) & (pl.col("fav_count") > table[step.percentile])).then(
            pl.lit(step.word)
        )
        for step in quality.above
        for rating, table in quality.percentiles.items()
    ]
    return pl.when(pl.col("id") <= quality.last_id).then(pl.coalesce(*words, pl.lit(quality.otherwise)))
