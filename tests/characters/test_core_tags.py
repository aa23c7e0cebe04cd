"""Which tags tell looks, by names of the booru; and how many pictures must have them."""

import polars as pl
import pytest

from characters.core_tags import core_tags, looks, tells_looks


@pytest.mark.parametrize(
    "name",
    [
        "long_hair", "very_long_hair", "light_brown_hair", "colored_inner_hair", "two-tone_hair", "blue_eyes",
        "heterochromia", "slit_pupils", "black_sclera", "dark_skin", "very_dark_skin", "dark-skinned_female", "tan",
        "animal_ears", "cat_ears", "pointy_ears", "tail", "fox_tail", "multiple_tails", "demon_horns", "single_horn",
        "wings", "bat_wings", "halo", "fang", "ahoge", "twintails", "twin_braids", "single_hair_bun", "double_bun",
        "blunt_bangs", "hair_over_one_eye", "two_side_up", "mole_under_eye", "freckles", "facial_mark", "glasses", "eyepatch",
        "mohawk", "bob_cut", "cat_girl",
    ],
)  # fmt: skip
def test_looks(name: str):
    assert tells_looks(name)


@pytest.mark.parametrize(
    "name",
    [
        # expressions and doings
        "closed_eyes", "half-closed_eyes", "rolling_eyes", "heart-shaped_pupils", "one_eye_closed", "hand_in_own_hair",
        "holding_hair", "floating_hair", "wet_hair", "smile", "looking_at_viewer", "tail_wagging", "tail_raised", "spread_wings",
        "open_mouth", "covering_own_eyes",
        # clothing and costume
        "hairband", "hair_ribbon", "hair_ornament", "hair_bow", "sunglasses", "fake_animal_ears", "fake_tail", "fake_horns",
        "tail_ornament", "horn_ribbon", "long_sleeves", "black_gloves",
        # nothing sexual
        "pubic_hair", "female_pubic_hair", "anal_tail", "breasts", "large_breasts", "armpit_hair", "shiny_skin", "skindentation",
        # people, places
        "1girl", "solo", "white_background",
    ],
)  # fmt: skip
def test_no_looks(name: str):
    assert not tells_looks(name)


def test_only_general_tags_tell_looks():
    tags = pl.DataFrame({"name": ["long_hair", "long_hair", "smile", "cat_ears"], "type": [0, 2, 0, 0]})
    assert looks(tags).tolist() == [True, False, False, True]


def test_a_core_tag_is_on_at_least_the_share_of_the_posts():
    counted = [("tail", 34), ("cat_ears", 35), ("ahoge", 35), ("blue_eyes", 90)]
    assert core_tags(counted, 100, 0.35) == ("blue_eyes", "ahoge", "cat_ears")
    # 0.07 * 100 is above 7 in floats.
    assert core_tags([("tail", 7)], 100, 0.07) == ("tail",)
