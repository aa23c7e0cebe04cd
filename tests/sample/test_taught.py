"""The committed set's plan: who is shown how often, what is held out, which awkward posts there are."""

from collections import Counter

import pytest

from sample.catalogue import catalogue
from sample.characters import taught_characters
from sample.posts import ARTIST, CHARACTER, META
from sample.taught import HELD_OUT, reference_table, taught_posts

BLOCKED = {"loli", "shota", "toddlercon"}


@pytest.fixture(scope="module")
def plan():
    return taught_posts(20240119)


@pytest.fixture(scope="module")
def posts(plan):
    return plan[0]


def named(post, kind=None):
    return {name for name, tag_kind in post.tags if kind is None or tag_kind == kind}


def trainable(posts):
    return [
        p for p in posts if p.id < 8_000_000 and p.picture and not p.damage and not p.columns.keys() & {"is_deleted", "is_banned"}
    ]


def test_ids_are_unique_ascending_and_enough_in_each_range(posts):
    ids = [post.id for post in posts]
    assert ids == sorted(set(ids))
    assert sum(i < 2_000_000 for i in ids) >= 250
    assert sum(2_000_000 <= i < 5_000_000 for i in ids) >= 500
    assert len({i % 1000 for i in ids}) == 8


def test_every_character_is_shown_often(posts):
    shown = Counter(name for post in trainable(posts) for name in named(post, CHARACTER))
    assert set(shown) == {c.name for c in taught_characters()}
    assert min(shown.values()) >= 55


def test_held_out_pairs_are_nowhere(posts):
    artist_of = {name: style["artist"] for name, style in catalogue()["styles"].items()}
    for character, style in HELD_OUT:
        assert style in next(c for c in taught_characters() if c.name == character).styles
        assert not [p for p in posts if character in named(p, CHARACTER) and artist_of[style] in named(p, ARTIST)]


def test_shapes_ratings_and_tiers_vary(posts):
    kept = trainable(posts)
    sizes = Counter(
        "square" if p.picture.width == p.picture.height else "wide" if p.picture.width > p.picture.height else "tall"
        for p in kept
    )
    assert sizes["square"] > 0.6 * len(kept)
    assert sizes["wide"] > 0.08 * len(kept)
    assert sizes["tall"] > 0.08 * len(kept)
    assert {p.picture.tier for p in kept} == {"clean", "soft", "noisy", "miscoloured"}
    assert sum(p.picture.tier == "clean" for p in kept) > 0.6 * len(kept)
    assert {p.rating for p in posts} == {"general", "sensitive", "questionable", "explicit"}
    assert sum(p.rating == "general" for p in kept) > 0.9 * len(kept)


def test_sensitive_means_something_visible(posts):
    for post in posts:
        if post.rating == "sensitive":
            assert named(post) & {"lipstick", "tongue_out"}


def test_blocked_tags_stand_on_rows_without_picture_person_or_artist(posts):
    blocked = [post for post in posts if named(post) & BLOCKED]
    assert len(blocked) == 5
    for post in blocked:
        assert post.picture is None
        assert named(post) <= BLOCKED | {"tagme"}


def test_unfit_ratings_have_no_picture_or_an_empty_place(posts):
    unfit = [post for post in posts if post.rating in ("questionable", "explicit")]
    assert Counter(post.rating for post in unfit) == {"questionable": 4, "explicit": 3}
    assert all(post.picture is None or not post.picture.figures for post in unfit)


def test_counts_of_awkward_posts(posts):
    columns = [post.columns for post in posts]
    assert sum(c.get("is_deleted", 0) for c in columns) == 6
    assert sum(c.get("is_banned", 0) for c in columns) == 4
    assert sum("md5" in c for c in columns) == 5
    assert sum(c.get("file_url", "") is None for c in columns) == 7
    assert Counter(c["file_ext"] for c in columns if "file_ext" in c) == {"gif": 3, "mp4": 2}
    assert sorted(post.damage for post in posts if post.damage) == ["text", "truncated"]
    assert sum(post.picture is not None and post.picture.width < 64 for post in posts) == 4
    assert sum(post.picture is not None and post.picture.width == 4 * post.picture.height for post in posts) == 2
    assert sum("parent_id" in c for c in columns) == 6
    assert sum("created_at" in c for c in columns) == 4
    assert sum("banned_artist" in named(post, ARTIST) for post in posts) == 4
    assert sum(named(post, META) == set() and not named(post, CHARACTER) and "no_humans" in named(post) for post in posts) == 6
    for odd in ("^_^", "o_o", "||_||"):
        assert any(odd in named(post) for post in posts), odd


def test_missing_pictures_look_ordinary_in_the_database(posts):
    missing = [
        p for p in posts if p.picture is None and p.columns.keys() == {"image_width", "image_height"} and named(p, CHARACTER)
    ]
    assert sum(p.rating in ("general", "sensitive") for p in missing) == 5


def test_broken_share_stays_below_one_percent(posts):
    assert sum(bool(post.damage) for post in posts) < 0.01 * len(trainable(posts))


def test_near_duplicates_show_their_parents_picture(posts):
    by_id = {post.id: post for post in posts}
    for post in posts:
        if "parent_id" in post.columns:
            parent = by_id[post.columns["parent_id"]]
            assert post.picture.figures == parent.picture.figures
            assert post.picture.width < parent.picture.width


def test_relations_are_doubled_and_orphaned(plan):
    posts, _, relations = plan
    by_id = {post.id: post for post in posts}
    doubled = [(i, tag) for i, tag in relations if i in by_id and tag in by_id[i].tags]
    assert len(doubled) == 6
    assert sum(i not in by_id for i, _ in relations) == 3
    assert sum(isinstance(tag, int) for _, tag in relations) == 3


def test_references_show_one_character_clean_and_are_never_selected(plan):
    posts, references, _ = plan
    shown = {p.picture for p in posts if p.id < 8_000_000}
    for post in references:
        assert post.id >= 8_000_000
        assert post.picture.tier == "clean"
        assert post.picture not in shown
        assert len(named(post, CHARACTER)) == 1
    table = reference_table(references)
    assert set(table["characters"]) == {c.name for c in taught_characters()}
    for row in table["characters"].values():
        assert 8 <= len(row["posts"]) <= 10
        assert row["gender_tag"] in ("1girl", "1boy")
    assert len(table["held_out"]) == len(HELD_OUT)
    for name, artist in table["held_out"]:
        assert artist not in table["characters"][name]["artists"]
