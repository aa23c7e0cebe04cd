from repro.params import Select

from booru.captioning.profiles import profile
from reporting.facts import caption_format, name_list, selection_conditions, special_words, year_words
from reporting.records import Captions


def test_caption_format_follows_the_profile():
    kept, general = caption_format(profile("kohaku-xl-epsilon"), custom=False)
    assert kept == "<1girl/1boy/1other/...>, <character>, <series>, <artists>"
    assert general == "<general tags>, <meta tags>, <year tag>, <rating tags>, <quality tag>"


def test_caption_format_tells_custom_words_where_there_are_any():
    assert caption_format(profile("kohaku-xl-epsilon"), custom=True)[0].startswith("<custom tags>, <1girl/")


def test_year_words_do_not_overlap():
    assert year_words(profile("kohaku-xl-epsilon")) == [
        ("old", "2005-2010"), ("early", "2011-2014"), ("mid", "2015-2017"), ("recent", "2018-2020"), ("newest", "2021-2024"),
    ]  # fmt: skip


def test_name_list_counts_by_step_and_writes_names_as_prompts_do():
    names = name_list({"a_b_c": 1200, "d_e_f": 100, ">_<": 9})
    assert names.shown == [("a b c", 1200), ("d e f", 100), (">_<", 9)]
    assert names.at_least == {1000: 1, 500: 1, 100: 2, 10: 2}


def test_long_name_lists_are_cut():
    names = name_list({f"tag_{i}": 1000 - i for i in range(300)})
    assert names.total == 300 and len(names.shown) == 40


def words_of(name: str) -> dict[str, list[tuple[str, str, int]]]:
    captions = Captions(posts=10, posts_with_word={"masterpiece": 4, "nsfw": 3, "very displeasing": 2})
    return {part: [(w.word, w.rule, w.captions) for w in words] for part, words in special_words(profile(name), captions).items()}


def test_quality_words_have_their_percentile_and_their_captions():
    words = words_of("kohaku-xl-delta")
    assert list(words) == ["quality", "rating", "date"]
    assert words["quality"][0] == ("masterpiece", "favourites above the 95th percentile", 4)
    assert words["quality"][-1] == ("worst quality", "else", 0)
    assert ("nsfw", "rated questionable or explicit", 3) in words["rating"]
    assert words["date"][-1] == ("newest", "uploaded 2021-2024", 0)


def test_words_of_parts_that_captions_do_not_have_are_not_told():
    rules = profile("kohaku-xl-delta")
    bare = rules.model_copy(update={"general": [part for part in rules.general if part not in ("year", "rating")]})
    assert list(special_words(bare, Captions(posts=10, posts_with_word={}))) == ["quality"]


def test_words_by_a_models_score_have_its_limit():
    words = words_of("sotediffusion")
    assert words["aesthetic"][0] == ("extremely aesthetic", "score above 0.9", 0)
    assert words["aesthetic"][-1] == ("very displeasing", "else", 2)
    assert words["quality"][0][1] == "score above 0.98"


def test_only_conditions_that_are_set_are_told():
    ranges = [{"first": 0, "last": 9, "take": None}]
    assert selection_conditions(Select(draw="keyed", ranges=ranges)) == []
    told = selection_conditions(Select(draw="keyed", ranges=ranges, min_score=5, required_tags=["solo"], max_per_artist=100))
    assert told == ["required_tags [solo]", "min_score 5", "max_per_artist 100"]
