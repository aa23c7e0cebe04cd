"""Tags named by a person: counted on posts, and the nearest named where there is none."""

from repro.errors import StageError

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from booru.selection.named_tags import NamedTags, nearest_names

NAMES = ["1girl", "solo", "long_hair", "short_hair", "blue_eyes", "custom_word", "custom_word"]
TAGS = pl.DataFrame({"id": [2, 3, 5, 7, 11, 13, 17], "name": NAMES})
POSTS = st.lists(st.lists(st.sampled_from(TAGS["id"].to_list()), max_size=6), max_size=8)


@given(POSTS, st.sets(st.sampled_from(NAMES), min_size=1))
def test_held_counts_different_names(posts, names):
    name_of = dict(TAGS.rows())
    expected = [len({name_of[i] for i in post} & names) for post in posts]
    held = NamedTags(sorted(names), TAGS, "key").held(pl.Series(posts, dtype=pl.List(pl.Int32)))
    assert held.tolist() == expected


def test_doubled_tags_count_once():
    held = NamedTags(["solo", "long_hair"], TAGS, "key").held(pl.Series([[3, 3, 2], [], [5, 3, 5]], dtype=pl.List(pl.Int32)))
    assert held.tolist() == [1, 0, 2]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("long hair", "long_hair"), ("long_hiar", "long_hair"), ("Blue_eyes", "blue_eyes"), ("1girls", "1girl"), ("olo", "solo")],
)
def test_a_typing_error_is_told_the_nearest_name(name, nearest):
    assert nearest_names(name, TAGS["name"])[0] == nearest
    with pytest.raises(StageError, match=f"^select.excluded_tags: the metadata has no tag '{name}'; the nearest are {nearest}"):
        NamedTags(["solo", name], TAGS, "select.excluded_tags")


def test_a_name_without_any_near():
    with pytest.raises(StageError, match="no tag 'zzzzzzzz'; names are written with underscores"):
        NamedTags(["zzzzzzzz"], TAGS, "key")


def test_an_empty_name_is_refused_in_words():
    with pytest.raises(StageError, match="the metadata has no tag ''"):
        NamedTags([""], TAGS, "key")


def test_a_million_names_are_searched_once():
    names = pl.Series(np.arange(1_000_000)).cast(pl.String) + "_hair"
    assert nearest_names("123456_hiar", names)[0] == "123456_hair"
