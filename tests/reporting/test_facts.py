from repro.params import Select

from booru.captioning.profiles import profile
from reporting.facts import caption_format, extremes, name_list, score_words, selection_conditions, year_words
from reporting.records import CharacterRow


def row(name: str, base: float, merged: float) -> CharacterRow:
    return CharacterRow(name, "series", 10, base, merged, 1.0, 1.0, None)


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
    assert names.at_least == [(1000, 1), (500, 1), (100, 2), (10, 2)]


def test_long_name_lists_are_cut():
    names = name_list({f"tag_{i}": 1000 - i for i in range(300)})
    assert names.total == 300 and len(names.shown) == 40


def test_few_rows_are_all_shown():
    rows = [row(str(i), 0.0, 1 - i / 10) for i in range(6)]
    assert extremes(rows, 2) == rows


def test_of_many_rows_best_worst_and_most_changed_are_shown_in_their_order():
    rows = [row(f"{i:02}", 0.5, 1 - i / 20) for i in range(20)]
    rows[10] = row("10", 0.0, 0.5)
    assert [r.name for r in extremes(rows, 2)] == ["00", "01", "10", "18", "19"]


def test_score_words_come_from_favourites_or_from_models():
    assert score_words(profile("kohaku-xl-delta"))["quality"][0] == "masterpiece"
    assert list(score_words(profile("sotediffusion"))) == ["aesthetic", "quality"]
    assert score_words(profile("sotediffusion"))["aesthetic"][-1] == "very displeasing"


def test_only_conditions_that_are_set_are_told():
    ranges = [{"first": 0, "last": 9, "take": None}]
    assert selection_conditions(Select(draw="keyed", ranges=ranges)) == []
    told = selection_conditions(Select(draw="keyed", ranges=ranges, min_score=5, required_tags=["solo"], max_per_artist=100))
    assert told == ["required_tags [solo]", "min_score 5", "max_per_artist 100"]
