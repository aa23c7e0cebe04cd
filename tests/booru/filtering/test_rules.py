"""The filter's rules one by one, their order, and the counts that follow from the ledger."""

from repro.errors import StageError
from repro.params import Filter

import polars as pl
import pytest
from tiny_booru import TAGS, post

from booru.filtering.blocked import blocked_ids, with_kin
from booru.filtering.rules import DUPLICATE, KEPT, NOT_ARCHIVED, REASONS, funnel_of, ledger_of, refuse_empty

PARAMS = Filter(
    image_index="images.parquet",
    blocked_tags=["loli", "shota", "toddlercon"],
    ratings=["general", "sensitive"],
    drop_deleted=True,
    drop_banned=True,
    extensions=["webp", "png"],
    min_side=64,
    max_aspect_ratio=3.0,
)
TAG_TABLE = pl.DataFrame(TAGS, schema=["id", "name", "type"], orient="row")
TYPES = {"tags": pl.List(pl.Int32), "md5": pl.String, "file_url": pl.String}


def reasons(*posts: dict, params: Filter = PARAMS, missing: tuple[int, ...] = ()) -> list[str]:
    frame = pl.DataFrame(list(posts), schema_overrides=TYPES)
    archived = frame.filter(~pl.col("id").is_in(missing))["id"]
    # Two shards, so that a rule over all posts has to look across them.
    frames = [frame[: len(posts) // 2], frame[len(posts) // 2 :]]
    ledger = ledger_of(frames, params, TAG_TABLE, archived)
    assert ledger["id"].equals(frame["id"])
    return ledger["reason"].to_list()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, KEPT),
        ({"tags": []}, KEPT),
        ({"tags": [1, 11]}, "blocked tag"),
        ({"tags": [12, 3]}, "blocked tag"),
        ({"tags": [13]}, KEPT),
        ({"is_deleted": 1}, "deleted"),
        ({"is_banned": 1}, "banned"),
        ({"md5": None}, "no md5 or file_url"),
        ({"md5": ""}, "no md5 or file_url"),
        ({"file_url": None}, "no md5 or file_url"),
        ({"file_ext": "mp4"}, "extension not allowed"),
        ({"file_ext": "webpx"}, "extension not allowed"),
        ({"rating": 1}, KEPT),
        ({"rating": 2}, "rating not allowed"),
        ({"image_width": 63}, "too small"),
        ({"image_height": 64}, KEPT),
        ({"image_width": 0, "image_height": 0}, "too small"),
        ({"image_width": 288, "image_height": 96}, KEPT),
        ({"image_width": 289, "image_height": 96}, "aspect ratio"),
        ({"image_width": 96, "image_height": 289}, "aspect ratio"),
    ],
)
def test_each_rule_at_its_edge(changes, reason):
    assert reasons(post(1, **changes)) == [reason]


def test_rules_that_a_recipe_switches_off():
    loose = PARAMS.model_copy(update={"drop_deleted": False, "drop_banned": False})
    assert reasons(post(1, is_deleted=1), post(2, is_banned=1), params=loose) == [KEPT, KEPT]


def test_the_first_rule_that_holds_gives_the_reason():
    bad = {
        "tags": [11], "is_deleted": 1, "is_banned": 1, "md5": None, "file_ext": "gif", "rating": 3, "image_width": 9,
        "image_height": 60,
    }  # fmt: skip
    good = {name: post(1)[name] for name in bad}
    order = []
    for mend in ["tags", "is_deleted", "is_banned", "md5", "file_ext", "rating", "image_height"]:
        order += reasons(post(1, **bad), missing=(1,))
        bad[mend] = good[mend] if mend != "image_height" else 500
        if mend == "image_height":
            bad["image_width"] = 100
    order += reasons(post(1, **bad), missing=(1,))
    bad["image_width"] = 300
    order += reasons(post(1, **bad), missing=(1,))
    assert order == [*REASONS[:8], NOT_ARCHIVED]


def test_of_posts_with_one_md5_the_first_that_passed_is_kept():
    same = {"md5": "f" * 32}
    posts = [post(1, **same, is_deleted=1), post(2, **same), post(3), post(4, **same), post(5, **same)]
    assert reasons(*posts) == ["deleted", KEPT, KEPT, DUPLICATE, DUPLICATE]


def test_posts_without_md5_are_no_duplicates_of_each_other():
    assert reasons(post(1, md5=None), post(2, md5=None)) == ["no md5 or file_url"] * 2


def test_posts_outside_the_index():
    assert reasons(post(1), post(2), post(3), missing=(2,)) == [KEPT, NOT_ARCHIVED, KEPT]


def test_kin_of_a_blocked_tag_is_blocked_and_like_names_are_not():
    assert {"loli", "oppai_loli", "straight_shota"} <= with_kin(["loli", "shota"])
    assert with_kin(["solo"]) == {"solo"}
    assert blocked_ids(TAG_TABLE, PARAMS.blocked_tags) == [11, 12]


def test_funnel_counts_add_up():
    names = [KEPT, *REASONS, KEPT, REASONS[4], REASONS[4]]
    ledger = pl.DataFrame({"id": range(len(names)), "reason": names})
    funnel = funnel_of(ledger)
    assert (funnel["selected"], funnel["kept"]) == (len(names), 2)
    assert [step["reason"] for step in funnel["steps"]] == list(REASONS)
    assert [step["dropped"] for step in funnel["steps"]] == [1, 1, 1, 1, 3, 1, 1, 1, 1, 1]
    assert funnel["steps"][0]["left"] == len(names) - 1
    assert funnel["steps"][-1]["left"] == funnel["kept"]


def test_nothing_kept_names_the_hardest_rule():
    ledger = pl.DataFrame({"id": [1, 2, 3], "reason": ["banned", "too small", "too small"]})
    with pytest.raises(StageError, match=r"none of 3 posts is kept; 'too small' dropped the most \(2\)"):
        refuse_empty(funnel_of(ledger))
