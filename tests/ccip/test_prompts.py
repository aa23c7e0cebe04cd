"""Requests: prompt text as in the captions, seeds from the request alone."""

import hashlib
from dataclasses import replace

import pytest

from ccip.prompts import fill_template, picture_seed, requests_for, spoken
from ccip.references import Reference

MIKA = Reference(
    character="mika_(lorelei)",
    series="lorelei_stories",
    gender_tag="1girl",
    artists=("lisa_wischofsky", "zoish"),
    posts=(1, 2),
    held_out_artists=("johan_melin",),
)
TEMPLATES = ["{gender}, {character}, {series}, {artist}, solo", "{gender}, {character}, smile"]


@pytest.mark.parametrize(
    ("tag", "text"), [("long_hair", "long hair"), (">_<", ">_<"), ("^_^", "^_^"), ("||_||", "|| ||"), ("", "")]
)
def test_underscores_stay_in_short_names_only(tag, text):
    assert spoken(tag) == text


def test_prompt_is_written_like_a_caption():
    assert fill_template(TEMPLATES[0], MIKA, "lisa_wischofsky") == "1girl, mika (lorelei), lorelei stories, lisa wischofsky, solo"


def test_a_boy_is_asked_for_as_captions_name_him():
    assert fill_template(TEMPLATES[1], replace(MIKA, gender_tag="1boy"), "") == "1boy, male focus, mika (lorelei), smile"


def test_an_empty_part_leaves_no_comma():
    assert fill_template(TEMPLATES[0], replace(MIKA, series=""), "") == "1girl, mika (lorelei), solo"


def test_seed_is_the_digest_of_the_request():
    digest = hashlib.sha256(b"mika_(lorelei)|1|3").digest()
    assert picture_seed("mika_(lorelei)", 1, 3) == int.from_bytes(digest[:8], "big") % 2**32 < 2**32


def test_templates_and_artists_take_turns_and_held_out_artists_come_last():
    requests = requests_for(MIKA, TEMPLATES, 4)
    assert [r.number for r in requests] == [0, 1, 2, 3, 4]
    assert [r.artist for r in requests] == ["lisa_wischofsky", "zoish", "lisa_wischofsky", "zoish", "johan_melin"]
    assert [r.held_out for r in requests] == [False] * 4 + [True]
    assert requests[1].prompt == "1girl, mika (lorelei), smile"
    assert requests[4].prompt == "1girl, mika (lorelei), lorelei stories, johan melin, solo"
    assert [r.seed for r in requests] == [picture_seed("mika_(lorelei)", k % 2, k) for k in range(5)]


def test_more_pictures_leave_the_first_as_they_were():
    assert requests_for(MIKA, TEMPLATES, 8)[:4] == requests_for(MIKA, TEMPLATES, 4)[:4]
