"""Requests: prompts in the order of the captions, seeds from the request alone."""

import hashlib
import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from repro.errors import StageError
from repro.params import Generation, load_params

import pytest
from hypothesis import given
from hypothesis import strategies as st

from booru.captioning.profiles import Profile, profile, profiles
from booru.captioning.tagger_words import spelled
from characters.references import Reference
from generation.requests import picture_seed, requests_for

MIKA = Reference(
    character="mika_(lorelei)",
    series="lorelei_stories",
    gender_tag="1girl",
    core_tags=("long_hair", ">_<"),
    artists=("lisa_wischofsky", "zoish"),
    posts=(1, 2),
    held_out_artists=("johan_melin", "draftbit"),
    training_pictures=40,
)
SAMPLE = load_params(Path(__file__).parents[2] / "recipes" / "sample.yaml").evaluate.generation
EPSILON = profile("kohaku-xl-epsilon")


def recipe(**changes: object) -> Generation:
    given = {"modes": ["name"], "templates": {"plain": "solo"}, "rating": "general", "artists": True, "pictures": 4}
    return SAMPLE.model_copy(update=given | changes)


def prompts(reference: Reference = MIKA, rules: Profile = EPSILON, **changes: object) -> list[str]:
    return [request.prompt for request in requests_for(reference, recipe(pictures=1, **changes), rules, [])]


@pytest.mark.parametrize(
    ("tag", "text"), [("long_hair", "long hair"), (">_<", ">_<"), ("^_^", "^_^"), ("||_||", "|| ||"), ("", "")]
)
def test_underscores_stay_in_short_names_only(tag: str, text: str) -> None:
    assert spelled(tag) == text


def test_a_prompt_has_the_order_and_words_of_its_profile() -> None:
    expected = {
        "kohaku-xl-epsilon": "1girl, mika (lorelei), lorelei stories, lisa wischofsky, solo, newest, safe, masterpiece",
        "sotediffusion": "extremely aesthetic, best quality, newest, general, mika, lorelei, lorelei stories, 1girl, solo",
    }
    assert {name: prompts(rules=profile(name))[0] for name in expected} == expected


def test_a_series_that_the_expanded_name_tells_is_not_told_again() -> None:
    told = prompts(replace(MIKA, series="lorelei", gender_tag="1boy"), profile("sotediffusion"))[0]
    assert told == "extremely aesthetic, best quality, newest, general, mika, lorelei, 1boy, male focus, solo"
    assert prompts(replace(MIKA, series="lorelei"))[0].startswith("1girl, mika (lorelei), lorelei, lisa wischofsky")


@pytest.mark.parametrize("name", profiles())
def test_every_profile_gives_words_and_no_mark(name: str) -> None:
    rules = profile(name)
    words = prompts(rules=rules)[0].split(", ")
    assert all(words) and "|||" not in words
    assert ("zoish" in ", ".join(prompts(replace(MIKA, artists=("zoish",)), rules))) == ("artist" in rules.keep + rules.general)


def test_the_rating_is_the_recipes_in_the_profiles_words() -> None:
    assert prompts(rating="explicit")[0].endswith(", solo, newest, explicit, nsfw, masterpiece")


def test_looks_stand_before_the_template_and_only_in_their_mode() -> None:
    named, by_looks, *_ = prompts(modes=["name", "core_tags"], templates={"plain": "solo, looking_at_viewer"})
    assert named.split(", ")[4:6] == ["solo", "looking at viewer"]
    assert by_looks.split(", ")[4:8] == ["long hair", ">_<", "solo", "looking at viewer"]


def test_a_boy_is_asked_for_as_captions_name_him() -> None:
    assert prompts(replace(MIKA, gender_tag="1boy"))[0].startswith("1boy, male focus, mika (lorelei), ")


def test_an_empty_part_leaves_no_comma() -> None:
    bare = replace(MIKA, series="", gender_tag="", artists=())
    assert prompts(bare, templates={"plain": "solo, "})[0] == "mika (lorelei), solo, newest, safe, masterpiece"


def test_a_comma_in_a_name_is_kept() -> None:
    assert prompts(replace(MIKA, character="eins,_zwei"))[0].startswith("1girl, eins, zwei, lorelei stories")


def test_seed_is_the_digest_of_the_request() -> None:
    digest = hashlib.sha256(b"mika_(lorelei)|plain|3").digest()
    assert picture_seed("mika_(lorelei)", "plain", 3) == int.from_bytes(digest[:8], "big") % 2**32 < 2**32


def test_templates_and_artists_take_turns_and_held_out_artists_come_last() -> None:
    templates = {"plain": "solo", "smile": "smile"}
    requests = requests_for(MIKA, recipe(modes=["core_tags", "name"], templates=templates, pictures=3), EPSILON, [])
    assert [r.mode for r in requests] == ["core_tags"] * 3 + ["name"] * 3 + ["new_artist"] * 2
    assert [r.number for r in requests] == [0, 1, 2, 0, 1, 2, 3, 4]
    assert [r.artist for r in requests] == ["lisa_wischofsky", "lisa_wischofsky", "zoish"] * 2 + ["johan_melin", "draftbit"]
    assert [r.template for r in requests] == ["plain", "smile", "plain"] * 2 + ["smile", "plain"]
    assert [r.seed for r in requests] == [picture_seed(r.character, r.template, r.number) for r in requests]
    assert [r.seed for r in requests[:3]] == [r.seed for r in requests[3:6]], "modes are compared from the same noise"
    assert requests[6].prompt == "1girl, mika (lorelei), lorelei stories, johan melin, smile, newest, safe, masterpiece"


def test_a_recipe_without_artists_names_none() -> None:
    requests = requests_for(MIKA, recipe(artists=False), EPSILON, [])
    assert {(r.mode, r.artist) for r in requests} == {("name", "")}
    assert requests[0].prompt == "1girl, mika (lorelei), lorelei stories, solo, newest, safe, masterpiece"


@given(few=st.integers(1, 9), more=st.integers(0, 9), modes=st.permutations(["name", "core_tags"]))
def test_more_pictures_leave_the_first_of_every_mode_as_they_were(few: int, more: int, modes: list[str]) -> None:
    for mode in modes:
        fewer, all_of_them = (
            [r for r in requests_for(MIKA, recipe(modes=modes, pictures=pictures), EPSILON, []) if r.mode == mode]
            for pictures in (few, few + more)
        )
        assert all_of_them[:few] == fewer


BLOCKED = [
    (replace(MIKA, core_tags=("long_hair", "toddlercon")), "core_tags", "toddlercon"),
    (replace(MIKA, core_tags=("Loli",)), "core_tags", "loli"),
    (replace(MIKA, character="shota"), "name", "shota"),
    (replace(MIKA, series="gore"), "name", "gore"),
    (replace(MIKA, artists=("oji-loli",)), "name", "oji-loli"),
    (replace(MIKA, held_out_artists=("lolidom",)), "new_artist", "lolidom"),
    (replace(MIKA, gender_tag="(loli:1.2)"), "name", "loli"),
]


@pytest.mark.parametrize(("reference", "mode", "tag"), BLOCKED)
def test_a_prompt_with_a_blocked_tag_is_refused(reference: Reference, mode: str, tag: str) -> None:
    words = rf"the prompt of {re.escape(reference.character)} \({mode}\) asks for '{tag}', one of filter.blocked_tags"
    with pytest.raises(StageError, match=words):
        requests_for(reference, recipe(modes=["name", "core_tags"]), EPSILON, ["gore"])


def test_a_template_with_a_blocked_tag_is_refused_and_longer_words_are_not() -> None:
    for template, refused in (("solo, oppai loli", True), ("solo, lolita fashion", False)):
        settings = recipe(templates={"plain": template})
        with pytest.raises(StageError, match="'oppai_loli'") if refused else nullcontext():
            requests_for(MIKA, settings, EPSILON, [])


def test_every_artist_meets_every_template() -> None:
    templates = {"plain": "solo", "smile": "smile"}
    requests = requests_for(MIKA, recipe(templates=templates, pictures=6), EPSILON, [])
    met = [(r.template, r.artist) for r in requests if r.mode == "name"]
    first, second = MIKA.artists
    assert met == [
        ("plain", first), ("smile", first), ("plain", second), ("smile", second), ("plain", first), ("smile", first),
    ]  # fmt: skip
