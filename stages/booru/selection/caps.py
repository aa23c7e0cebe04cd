"""Caps: at most so many posts of one character, or of one artist.

A post is over the cap when, for any of its tags of that type, the cap is already full of posts that
come before it in the keyed order. Every post that has the tag counts there, also one that another
tag's cap leaves out: so no tag ever has more than the cap, and whether a post stays hangs on no
other cap, on no row order, and on no post that comes after it in that order.
"""

import numpy as np
import polars as pl

from booru.selection.distinct import sorted_distinct
from booru.tags import TAG_TYPES, by_tag_id

POST_BITS = np.int64(32)
POST_MASK = np.int64((1 << 32) - 1)


class TagCap:
    """Collects the pairs (tag, post) of one tag type and tells, once, who is over the cap.

    A pair takes 8 bytes while pairs are collected and about 18 while `over` runs, and a post 4 more then.

    Args:
        tags: the tag table; tag_type: name of the type that is capped, e.g. "character".
    """

    def __init__(self, tags: pl.DataFrame, tag_type: str, cap: int):
        self.cap = cap
        is_type = (tags["type"] == TAG_TYPES.index(tag_type)).to_numpy()
        self._is_capped = by_tag_id(tags, is_type, default=False)
        self._pairs: list[np.ndarray] = []

    def add(self, posts: np.ndarray, tags: pl.Series) -> None:
        """Count posts in: their numbers (i64, below 2**32) and their tag ids (List[i32])."""
        ids = tags.explode(empty_as_null=False).to_numpy()
        capped = self._is_capped[ids]
        rows = np.repeat(posts, tags.list.len().to_numpy())
        self._pairs.append((ids[capped].astype(np.int64) << POST_BITS) | rows[capped])

    def over(self, order: np.ndarray) -> np.ndarray:
        """By post whether it is over the cap; the pairs are gone afterwards.

        Args:
            order: the numbers of all posts (i32) in the order in which they fill the cap.
        """
        pairs = self._pairs_in(order)
        # Among sorted pairs without doubles, one is over when the pair `cap` before it has the same tag.
        late, early = pairs[self.cap :], pairs[: -self.cap]
        places = late[(late ^ early) <= POST_MASK] & POST_MASK
        over = np.zeros(len(order), dtype=bool)
        over[order[places]] = True
        return over

    def _pairs_in(self, order: np.ndarray) -> np.ndarray:
        """The pairs as (tag, place in the order), sorted and without doubles."""
        place = np.empty(len(order), dtype=np.int32)
        place[order] = np.arange(len(order), dtype=np.int32)
        pairs = np.empty(sum(map(len, self._pairs)), dtype=np.int64)
        start = 0
        while self._pairs:
            piece = self._pairs.pop()
            pairs[start : start + len(piece)] = (piece & ~POST_MASK) | place[piece & POST_MASK]
            start += len(piece)
        return sorted_distinct(pairs)
