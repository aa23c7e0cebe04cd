"""Repeats: once, and the extras of every rule that a post meets."""

from repro.errors import StageError
from repro.params import Repeat

import polars as pl
import pytest
from tiny_booru import METADATA_COLUMNS, TAGS, metadata_post

from booru.selection.repeats import repeat_rules, repeats_of

TAG_TABLE = pl.DataFrame([(*tag, 1) for tag in TAGS], schema=["id", "name", "type", "popularity"], orient="row")


def test_extras_add_up():
    rules = [Repeat(extra=4, min_score=100), Repeat(extra=1, required_tags=["solo"]), Repeat(extra=2, min_score=100)]
    posts = [(5, [1]), (100, [1]), (100, [2]), (None, [2])]
    frame = pl.DataFrame([metadata_post(i, score=s, tags=t) for i, (s, t) in enumerate(posts)], schema=METADATA_COLUMNS)
    repeats = repeats_of(frame, repeat_rules(rules, TAG_TABLE))
    assert repeats.dtype == "int32"
    assert repeats.tolist() == [1, 7, 8, 2]
    assert repeats_of(frame, []).tolist() == [1, 1, 1, 1]


def test_an_unknown_tag_is_named_with_its_rule():
    with pytest.raises(StageError, match=r"^select\.repeats\.1\.required_tags: the metadata has no tag 'sollo'"):
        repeat_rules([Repeat(extra=1), Repeat(extra=1, required_tags=["sollo"])], TAG_TABLE)
