"""Counts of tags by character, against plain dictionaries."""

from collections import Counter

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from characters.tag_counts import TagCounts, tag_hits

POSTS = st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(0, 6), max_size=5)), max_size=8)


@given(st.lists(POSTS, max_size=4), st.sets(st.integers(0, 6)))
def test_each_post_counts_each_of_its_wanted_tags_once(shards: list[list[tuple[int, list[int]]]], wanted: set[int]):
    counts, expected = TagCounts(), Counter()
    lookup = np.array([tag in wanted for tag in range(7)])
    for shard in shards:
        lists = pl.Series([tags for _, tags in shard], dtype=pl.List(pl.Int32))
        rows, tags = tag_hits(lists, lookup)
        counts.add(np.array([character for character, _ in shard], dtype=np.int32)[rows], tags)
        expected.update((character, tag) for character, tags in shard for tag in set(tags) & wanted)
    for character in range(4):
        found, posts = counts.of(character)
        assert found.tolist() == sorted(tag for owner, tag in expected if owner == character)
        assert posts.tolist() == [expected[character, tag] for tag in found.tolist()]
