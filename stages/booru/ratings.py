"""Danbooru's ratings, as the metadata database numbers them (HakuBooru revision 3b00e14)."""

from repro.errors import StageError

import polars as pl

# Index = value of post.rating.
RATINGS = ("general", "sensitive", "questionable", "explicit")


def check_ratings(posts: pl.DataFrame, where: str) -> pl.DataFrame:
    """Return the posts unchanged after checking that each rating is 0..3.

    Raises:
        StageError: another rating; names the post.
    """
    bad = posts.filter(~pl.col("rating").is_between(0, len(RATINGS) - 1)).head(1)
    if bad.height:
        known = ", ".join(f"{i} {name}" for i, name in enumerate(RATINGS))
        raise StageError(f"{where}: post {bad['id'][0]} has the unknown rating {bad['rating'][0]}; known: {known}")
    return posts
