"""Tags, dates, favourites and ids of the planned posts."""

from datetime import datetime

from repro.randomness import Stream

import pytest

from sample.catalogue import catalogue, words
from sample.characters import Drawn, taught_characters
from sample.pictures import VectorFigure
from sample.posts import (
    ARTIST,
    CHARACTER,
    COPYRIGHT,
    FAVOURITES,
    GENERAL,
    RESIDUES,
    created_at,
    favourites,
    girl_pairs,
    portrait_post,
    spread_ids,
)
from sample.taught import shown_styles


def names(post, kind=GENERAL):
    return {name for name, tag_kind in post.tags if tag_kind == kind}


@pytest.mark.parametrize("character", taught_characters(), ids=lambda c: c.name)
def test_tags_of_a_post_follow_from_its_plan(character):
    for number, style in enumerate(shown_styles(character)):
        post = portrait_post(5, "test", character, style, number, "clean")
        general = names(post)
        assert set(character.core_tags) | {character.gender, "solo"} <= general
        assert names(post, CHARACTER) == {character.name}
        assert names(post, COPYRIGHT) == {character.series}
        assert names(post, ARTIST) <= set(character.artists)
        (figure,) = post.picture.figures
        if isinstance(figure, VectorFigure):
            options = dict(figure.options)
            row = catalogue()["styles"][style]
            assert options[row["hair_colour"]] == catalogue()["hair_colours"][character.hair_colour]
            for component, variants in row["drawn"].items():
                variant = options[f"{component}Variant"]
                assert set(words(variants.get(variant, ""))) <= general
        background = post.picture.background
        if background.kind != "scene":
            assert f"{background.name}_background" in general


def test_miscoloured_posts_say_nothing_about_colours():
    character = taught_characters()[0]
    general = names(portrait_post(5, "test", character, "adventurer", 0, "miscoloured"))
    assert "twintails" in general
    assert not {"blue_hair", "pale_skin"} & general
    assert not any(tag.endswith("_background") and tag.split("_")[0] in catalogue()["backgrounds"] for tag in general)


def test_pairs_show_two_girls_by_one_artist():
    girls = [c for c in taught_characters() if isinstance(c, Drawn) and c.gender == "1girl"]
    for post in girl_pairs(5, "test", girls, 6, lambda girl: girl.styles):
        assert {"2girls"} <= names(post)
        assert "solo" not in names(post)
        assert len(names(post, CHARACTER)) == 2
        assert len(names(post, ARTIST)) == 1


@pytest.mark.parametrize(
    ("post_id", "offset"),
    [(0, "-04:00"), (800_000, None), (2_000_000, "-04:00"), (4_999_999, "-05:00"), (8_700_000, "-05:00")],
)
def test_dates_have_the_new_york_offset_of_their_day(post_id, offset):
    text = created_at(post_id, Stream(1, "test"))
    moment = datetime.fromisoformat(text)
    assert 2005 <= moment.year <= 2024
    assert offset is None or text.endswith(offset)
    assert len(text) == len("2024-05-19T01:30:25.096-04:00")


def test_dates_grow_with_ids():
    moments = [datetime.fromisoformat(created_at(i, Stream(1, "t"))) for i in range(0, 8_500_000, 250_000)]
    assert moments == sorted(moments)


@pytest.mark.parametrize("rating", list(FAVOURITES))
def test_favourites_fall_into_the_tiers_quality_words(rating):
    """Strictly above a percentile's count means the better word; the spans of the tiers do not overlap."""
    p10, p30, p60 = (FAVOURITES[rating][i] for i in (1, 3, 6))
    counts = {
        t: [favourites(t, rating, Stream(3, "f", t, i)) for i in range(300)] for t in ("clean", "soft", "noisy", "miscoloured")
    }
    assert min(counts["clean"]) > p60
    assert all(p30 < count <= p60 for count in counts["soft"])
    assert all(p10 < count <= p30 for count in counts["noisy"])
    assert all(0 <= count <= p10 for count in counts["miscoloured"])
    assert max(counts["clean"]) > 2 * FAVOURITES[rating][-1]


def test_ids_are_spread_over_few_tars():
    ids = list(spread_ids(2_000_000, 4_999_999, 520, Stream(1, "ids")))
    assert ids == sorted(set(ids))
    assert len(ids) == 520
    assert {i % 1000 for i in ids} == set(RESIDUES)
    assert all(2_000_000 <= i <= 4_999_999 for i in ids)
