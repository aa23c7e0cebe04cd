"""Lists of artists and characters with the number of posts that were captioned with each, as published beside Delta."""

import numpy as np
import polars as pl

# The classes of the card of Kohaku XL Delta: with 1,000 pictures a tag works, with 100 it may with emphasis; characters
# with more than 500 come out directly, those with 100 to 500 with tags of their features.
CLASSES = (1000, 500, 100)


def tag_list(names: pl.Series, counts: np.ndarray) -> dict[str, dict[str, int | str]]:
    """{name: {"posts": count, "class": ">= 1000" ... "< 100"}} of the names that occur, by count descending, then by name.

    Args:
        counts: by row of `names` the number of posts. Names that stand twice (two tags of one name) are added up.
    """
    totals: dict[str, int] = {}
    for row in np.flatnonzero(counts):
        name = names[int(row)]
        totals[name] = totals.get(name, 0) + int(counts[row])
    ranked = sorted(totals.items(), key=lambda pair: (-pair[1], pair[0]))
    return {name: {"posts": count, "class": class_of(count)} for name, count in ranked}


def class_of(posts: int) -> str:
    """The card's class of a tag with this many pictures."""
    return next((f">= {floor}" for floor in CLASSES if posts >= floor), f"< {CLASSES[-1]}")
