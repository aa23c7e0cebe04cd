"""The whole choice: ranges, conditions, caps and draws over a metadata folder's shards, and the ledger."""

import random
import tempfile
from pathlib import Path

from repro.errors import StageError
from repro.params import IdRange, Select

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny_booru import FIRST_PICTURE, make_metadata, metadata_post

from booru.selection.selection import NOT_DRAWN, OUTSIDE, OVER_ARTIST, OVER_CHARACTER, REASONS, SELECTED, Selection, select
from booru.shards import read_tags, shard_files

ALL = {"first": 0, "last": FIRST_PICTURE - 1, "take": None}
# Few characters (2), artists (1) and others, so that caps fill up.
TAGS = [(1, "1girl", 0), (2, "solo", 0), (3, "x", 1), (4, "y", 1), (5, "mika", 2), (6, "rin", 2), (7, "len", 2)]


def chosen(posts: list[dict], ranges: list[dict], seed: int = 1, shard_posts: int = 200_000, **more) -> Selection:
    """Select from a folder of these posts; `more` are the other keys of the select section."""
    with tempfile.TemporaryDirectory() as name:
        folder = make_metadata(Path(name) / "metadata", posts, TAGS, shard_posts=shard_posts)
        wanted = Select.model_validate({"draw": "keyed", "ranges": ranges} | more)
        return select(shard_files(folder, "posts"), wanted, read_tags(folder), seed)


def ids_of(selection: Selection, reason: str = SELECTED) -> list[int]:
    return selection.ledger().filter(pl.col("reason") == reason)["id"].to_list()


def posts_of(ids) -> list[dict]:
    return [metadata_post(i, tags=[]) for i in ids]


IDS = st.sets(st.integers(0, 999), min_size=1, max_size=60)
TAGGED = st.dictionaries(st.integers(0, 999), st.lists(st.integers(1, 7), max_size=5), min_size=1, max_size=60)
LITTLE = settings(max_examples=50, deadline=None)


@LITTLE
@given(IDS, st.integers(1, 300), st.data())
def test_the_choice_hangs_neither_on_shards_nor_on_row_order_nor_on_posts_outside(ids, shard_posts, data):
    take = data.draw(st.integers(1, len(ids)))
    ranges = [{"first": 0, "last": 999, "take": take}]
    once = ids_of(chosen(posts_of(ids), ranges))
    outside = posts_of(data.draw(st.sets(st.integers(1000, 5000), max_size=20)))
    rows = data.draw(st.permutations(posts_of(ids) + outside))
    assert len(once) == take
    assert ids_of(chosen(rows, ranges, shard_posts=shard_posts)) == once


@LITTLE
@given(IDS, st.integers(0, 999), st.data())
def test_one_post_more_in_a_range_changes_at_most_one_other(ids, more, data):
    ranges = [{"first": 0, "last": 999, "take": data.draw(st.integers(1, len(ids)))}]
    before = set(ids_of(chosen(posts_of(ids), ranges)))
    after = set(ids_of(chosen(posts_of(ids | {more}), ranges)))
    assert len(before - after) <= 1
    assert after - before <= {more}


@LITTLE
@given(TAGGED, st.integers(1, 4), st.integers(1, 4), st.integers(1, 300))
def test_caps_are_never_exceeded_and_the_ledger_adds_up(tagged, per_character, per_artist, shard_posts):
    posts = [metadata_post(i, tags=tags, score=i % 5) for i, tags in tagged.items()]
    ranges = [{"first": 500, "last": 999, "take": None}, {"first": 0, "last": 300, "take": None}]
    caps = {"max_per_character": per_character, "max_per_artist": per_artist}
    try:
        selection = chosen(posts, ranges, min_score=1, shard_posts=shard_posts, **caps)
    except StageError:
        assert not any(i % 5 and not 300 < i < 500 for i in tagged)
        return
    selected = ids_of(selection)
    for cap, kinds in ((per_character, (5, 6, 7)), (per_artist, (3, 4))):
        assert all(sum(kind in tagged[i] for i in selected) <= cap for kind in kinds)
    ledger = selection.ledger()
    assert ledger["id"].to_list() == sorted(tagged)
    counts = selection.counts()
    assert counts == {reason: len(ids_of(selection, reason)) for reason in REASONS}
    assert sum(counts.values()) == len(tagged)
    assert counts[OUTSIDE] == sum(300 < i < 500 for i in tagged)
    assert ids_of(selection, "score") == sorted(i for i in tagged if i % 5 == 0 and not 300 < i < 500)
    for figures, first, last in zip(selection.figures, (500, 0), (999, 300), strict=True):
        there = [i for i in tagged if first <= i <= last]
        assert (figures["posts"], figures["matching"]) == (len(there), sum(i % 5 > 0 for i in there))
        assert figures["taken"] == sum(first <= i <= last for i in selected)


@LITTLE
@given(IDS, st.integers(0, 2**32), st.integers(1, 80), st.integers(1, 80))
def test_replay_is_the_references_loop(ids, seed, low, high):
    """HakuBooru's kohaku_xl.py: choices of the newer range first, then of the older, then everything above."""
    newer, older = (sorted(i for i in ids if first <= i <= last) for first, last in ((300, 599), (0, 299)))
    ranges = [
        {"first": 300, "last": 599, "take": high}, {"first": 600, "last": 999, "take": None},
        {"first": 0, "last": 299, "take": low},
    ]  # fmt: skip
    if not newer or not older:
        with pytest.raises(StageError, match="the metadata has 0 there"):
            chosen(posts_of(ids), ranges, seed, draw="replay")
        return
    selection = chosen(posts_of(ids), ranges, seed, draw="replay")
    rng = random.Random(seed)
    first, second = rng.choices(newer, k=high), rng.choices(older, k=low)
    assert ids_of(selection) == sorted({*first, *second, *(i for i in ids if i >= 600)})
    assert selection.figures[0]["draws"] == high
    assert selection.figures[2]["distinct"] == selection.figures[2]["taken"] == len(set(second))
    assert "draws" not in selection.figures[1]


def test_ranges_are_joined_in_id_order_and_bounds_are_included():
    ranges = [{"first": 60, "last": 69, "take": None}, {"first": 10, "last": 19, "take": 3}]
    selection = chosen(posts_of(range(100)), ranges)
    selected = ids_of(selection)
    assert selected == sorted(selected)
    assert selected[3:] == list(range(60, 70))
    assert len(selected) == 13
    assert set(ids_of(selection, NOT_DRAWN)) == set(range(10, 20)) - set(selected)
    assert selected != ids_of(chosen(posts_of(range(100)), ranges, seed=2))


def test_the_draw_that_was_made_before_there_were_conditions():
    """Ids that the sample's seed has chosen since the first release: dvc.lock holds what follows from them."""
    selection = chosen(posts_of(range(1000)), [{"first": 0, "last": 999, "take": 8}], seed=20240119)
    assert ids_of(selection) == [10, 62, 377, 498, 525, 753, 857, 875]


def test_draws_are_among_what_conditions_and_caps_leave():
    posts = [metadata_post(i, tags=[5] if i < 50 else [], score=i % 2) for i in range(100)]
    more = {"min_score": 1, "max_per_character": 3}
    selection = chosen(posts, [ALL | {"take": 20}], **more)
    assert selection.counts() | {SELECTED: 20, NOT_DRAWN: 8, OVER_CHARACTER: 22, "score": 50} == selection.counts()
    with pytest.raises(StageError, match=r"29 posts .* has 100 there, and 28 of them within the conditions and caps; take fewer"):
        chosen(posts, [ALL | {"take": 29}], **more)


def test_caps_count_all_ranges_together_and_each_for_itself():
    posts = [metadata_post(i, tags=[5, 3]) for i in range(10)] + [metadata_post(i, tags=[5]) for i in range(100, 110)]
    ranges = [{"first": 100, "last": 200, "take": None}, {"first": 0, "last": 50, "take": None}]
    selection = chosen(posts, ranges, max_per_character=6, max_per_artist=2)
    counts = selection.counts()
    assert counts[OVER_CHARACTER] == 14
    artist_over = set(ids_of(chosen(posts, ranges, max_per_artist=2), OVER_ARTIST))
    assert len(artist_over) == 8
    assert set(ids_of(selection, OVER_ARTIST)) == artist_over - set(ids_of(selection, OVER_CHARACTER))


def test_a_post_gets_the_first_reason_only():
    posts = [metadata_post(1, rating=3, score=0, tags=[]), metadata_post(2, score=0, tags=[]), metadata_post(3, tags=[]),
             metadata_post(4, tags=[1]), metadata_post(900, tags=[])]  # fmt: skip
    more = {"ratings": ["general"], "min_score": 1, "required_tags": ["1girl"]}
    selection = chosen(posts, [{"first": 0, "last": 99, "take": None}], **more)
    assert selection.ledger()["reason"].to_list() == ["rating", "score", "required tag missing", SELECTED, OUTSIDE]


def test_folders_and_ids_are_apart():
    pictures = [metadata_post(FIRST_PICTURE + i, source=source) for i, source in enumerate(["art", "scans", "art"])]
    posts = [metadata_post(5), metadata_post(6), *pictures]
    assert ids_of(chosen(posts, [{"folder": "art", "take": None}])) == [FIRST_PICTURE, FIRST_PICTURE + 2]
    assert ids_of(chosen(posts, [ALL])) == [5, 6]
    both = chosen(posts, [ALL, {"folder": "scans", "take": 1}])
    assert ids_of(both) == [5, 6, FIRST_PICTURE + 1]
    assert both.figures[1] == {"folder": "scans", "posts": 1, "matching": 1, "taken": 1}
    assert both.figures[0] | {"posts": 2, "matching": 2, "taken": 2} == both.figures[0]


def test_a_folder_without_pictures_is_refused():
    with pytest.raises(StageError, match=r"no picture of folder danbooru; its folders are: art, scans\."):
        pictures = [metadata_post(FIRST_PICTURE + i, source=source) for i, source in enumerate(["scans", "art", "scans"])]
        chosen([metadata_post(5), *pictures], [{"folder": "danbooru", "take": None}])
    with pytest.raises(StageError, match=r"no picture of folder danbooru; its folders are: none\."):
        chosen([metadata_post(5)], [{"folder": "danbooru", "take": None}])


def test_a_range_with_too_few_posts_is_refused_with_its_count():
    with pytest.raises(StageError, match=r"9 posts are to be taken from ids 0\.\.10, but the metadata has 4 there; take"):
        chosen(posts_of([1, 2, 3, 4]), [{"first": 0, "last": 10, "take": 9}])
    with pytest.raises(StageError, match="2 posts are to be taken from folder art, but the metadata has 1 there"):
        chosen([metadata_post(FIRST_PICTURE, source="art")], [{"folder": "art", "take": 2}])


def test_empty_selection_is_refused_with_the_largest_reason():
    posts = posts_of([1, 2, 3, 70])
    with pytest.raises(StageError, match=r"none of the metadata's 4 posts is selected; 'score' left out the most \(3\)"):
        chosen(posts, [{"first": 0, "last": 60, "take": None}], min_score=1000)


def test_shards_out_of_order_are_refused(tmp_path):
    folder = make_metadata(tmp_path / "m", posts_of(range(20)), TAGS, shard_posts=10)
    first, second = shard_files(folder, "posts")
    with pytest.raises(StageError, match="posts are not in the order of their ids"):
        select([second, first], Select(draw="keyed", ranges=[IdRange(**ALL)]), read_tags(folder), 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"draw": "replay", "min_score": 3}, "draw: replay draws over all posts .* leave min_score out"),
        ({"draw": "replay", "max_per_artist": 3}, "leave max_per_artist out"),
        ({"draw": "replay", "ranges": [{"folder": "a", "take": None}]}, "leave folders out"),
        ({"ranges": [{"first": 0, "last": 2**52, "take": None}]}, "less than 4503599627370496"),
        ({"ranges": [{"first": 0, "last": 9, "folder": "a", "take": None}]}, "either first and last, or folder"),
        ({"ranges": [{"first": 0, "last": 9, "take": None}, {"first": 9, "last": 20, "take": 1}]}, "overlap"),
        ({"repeats": [{"extra": 0}]}, "greater than or equal to 1"),
        ({"repeats": [{"extra": 1, "first_date": "2020-02-30"}]}, "not a day of the calendar"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        Select.model_validate({"draw": "keyed", "ranges": [ALL]} | settings)


def test_replay_with_repeats_is_possible():
    Select.model_validate({"draw": "replay", "ranges": [ALL], "repeats": [{"extra": 1, "min_score": 5}]})
