"""Counting tags of posts by character: which posts have which tags, and of each character how many posts have each."""

import numpy as np
import polars as pl

from booru.selection.distinct import sorted_distinct

TAG_BITS = 32
TAG_MASK = (1 << TAG_BITS) - 1


def tag_hits(lists: pl.Series, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(row, tag), i64, of the wanted tags of each row's list, sorted, a doubled tag once; `wanted` is a bool by tag."""
    tags = lists.explode(empty_as_null=False).to_numpy()
    hits = wanted[tags]
    rows = np.repeat(np.arange(len(lists), dtype=np.int64), lists.list.len().to_numpy())[hits]
    pairs = sorted_distinct(rows << TAG_BITS | tags[hits])
    return pairs >> TAG_BITS, pairs & TAG_MASK


class TagCounts:
    """Of each character (a number) how many posts have each tag (a number), counted in shard by shard; 16 bytes for each
    pair of a character and a tag that occurs."""

    def __init__(self) -> None:
        self._pairs = self._counts = np.empty(0, dtype=np.int64)

    def add(self, characters: np.ndarray, tags: np.ndarray) -> None:
        """Count posts in: for each post and each of its tags one element of both arrays."""
        pairs = np.concatenate([self._pairs, characters.astype(np.int64) << TAG_BITS | tags])
        counts = np.concatenate([self._counts, np.ones(len(tags), dtype=np.int64)])
        if not len(pairs):
            return
        order = np.argsort(pairs, kind="stable")
        pairs = pairs[order]
        first = np.flatnonzero(np.append(True, pairs[1:] != pairs[:-1]))
        self._pairs, self._counts = pairs[first], np.add.reduceat(counts[order], first)

    def of(self, character: int) -> tuple[np.ndarray, np.ndarray]:
        """The tags of a character's posts, ascending, and the number of its posts that have each."""
        start, end = np.searchsorted(self._pairs, [character << TAG_BITS, (character + 1) << TAG_BITS])
        return self._pairs[start:end] & TAG_MASK, self._counts[start:end]
