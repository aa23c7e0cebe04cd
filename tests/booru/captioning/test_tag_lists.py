"""Lists of artists and characters: ranking, and the classes of Delta's card at their edges."""

import numpy as np
import polars as pl
import pytest

from booru.captioning.tag_lists import class_of, tag_list


@pytest.mark.parametrize(
    ("posts", "name"),
    [
        (1, "< 100"), (99, "< 100"), (100, ">= 100"), (499, ">= 100"), (500, ">= 500"), (999, ">= 500"),
        (1000, ">= 1000"), (1_000_000, ">= 1000"),
    ],
)  # fmt: skip
def test_classes(posts: int, name: str):
    assert class_of(posts) == name


def test_ranked_by_posts_then_by_name_and_without_those_that_do_not_occur():
    names = pl.Series(["zoe", "ann", "bob", "éva", "nobody", "Ann"])
    listed = tag_list(names, np.array([700, 20, 700, 20, 0, 20]))
    assert list(listed.items()) == [
        ("bob", {"posts": 700, "class": ">= 500"}),
        ("zoe", {"posts": 700, "class": ">= 500"}),
        ("Ann", {"posts": 20, "class": "< 100"}),
        ("ann", {"posts": 20, "class": "< 100"}),
        ("éva", {"posts": 20, "class": "< 100"}),
    ]


def test_two_tags_of_one_name_are_added_up():
    listed = tag_list(pl.Series(["ann", "bob", "ann"]), np.array([60, 90, 40]))
    assert list(listed.items()) == [("ann", {"posts": 100, "class": ">= 100"}), ("bob", {"posts": 90, "class": "< 100"})]


def test_no_posts_give_an_empty_list():
    assert tag_list(pl.Series(["ann"]), np.zeros(1, dtype=np.int64)) == {}
