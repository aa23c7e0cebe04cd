"""Caps: no tag above its cap, first come first served in the keyed order."""

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from booru.selection.caps import TagCap

# Ids 0..4 are characters, 5..6 artists, 7 general.
TAGS = pl.DataFrame({"id": range(8), "type": [2, 2, 2, 2, 2, 1, 1, 0]})
POSTS = st.lists(st.lists(st.integers(0, 7), max_size=5), min_size=1, max_size=30)


def over(posts: list[list[int]], order: list[int], cap: int, pieces: int = 1, tag_type: str = "character") -> list[int]:
    """Numbers of the posts over the cap, told to it in several pieces."""
    capped = TagCap(TAGS, tag_type, cap)
    for numbers in np.array_split(np.arange(len(posts)), pieces):
        capped.add(numbers, pl.Series([posts[i] for i in numbers], dtype=pl.List(pl.Int32)))
    return np.flatnonzero(capped.over(np.array(order, dtype=np.int32))).tolist()


def plainly_over(posts: list[list[int]], order: list[int], cap: int) -> list[int]:
    """The rule, retold: of each character's posts in the order, all from number `cap` on."""
    late = set()
    for tag in range(5):
        late.update([number for number in order if tag in posts[number]][cap:])
    return sorted(late)


@given(POSTS, st.integers(1, 6), st.randoms(use_true_random=False), st.integers(1, 4))
def test_the_rule(posts, cap, rng, pieces):
    order = rng.sample(range(len(posts)), len(posts))
    assert over(posts, order, cap, pieces) == plainly_over(posts, order, cap)


@given(POSTS, st.integers(1, 6), st.randoms(use_true_random=False))
def test_no_tag_has_more_than_the_cap(posts, cap, rng):
    order = rng.sample(range(len(posts)), len(posts))
    gone = set(over(posts, order, cap))
    for tag in range(5):
        assert sum(tag in tags for i, tags in enumerate(posts) if i not in gone) <= cap


@given(POSTS, st.integers(1, 6), st.lists(st.integers(0, 7), max_size=5))
def test_a_post_that_comes_last_moves_no_other(posts, cap, more):
    order = list(range(len(posts)))
    assert set(over([*posts, more], [*order, len(posts)], cap)) - {len(posts)} == set(over(posts, order, cap))


def test_types_are_apart():
    posts = [[0, 5], [0, 6], [1, 5], [7], []]
    assert over(posts, [0, 1, 2, 3, 4], 1) == [1]
    assert over(posts, [0, 1, 2, 3, 4], 1, tag_type="artist") == [2]


def test_without_any_pair():
    assert over([[7], []], [1, 0], 1) == []
    assert not TagCap(TAGS, "artist", 3).over(np.arange(5, dtype=np.int32)).any()
