"""The profile sotediffusion: order, words and years of its card, scores of two models, custom words as they stand."""

import json
from pathlib import Path

from repro.params import load_params

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from booru.captioning.captions import texts_of, vocabulary_of, words_of
from booru.captioning.profiles import profile, worded
from booru.captioning.quality import quality_words, score_levels

SOTE = profile("sotediffusion")
TAGS = pl.DataFrame(
    [
        (1, "1girl", 0), (2, "long_hair", 0), (3, "lisa_w", 1), (4, "mika_(lorelei)", 2), (5, "lorelei_no_uta", 3),
        (6, "highres", 4), (7, "visual_novel_cg", 5), (8, "anime wallpaper", 5), (9, "male_focus", 0),
    ],
    schema={"id": pl.Int64, "name": pl.String, "type": pl.Int64},
    orient="row",
)  # fmt: skip
# The card's words from the lowest to the highest, and the scores between them.
AESTHETIC = (
    ["very displeasing", "displeasing", "slightly displeasing", "not aesthetic", "not displeasing", "slightly aesthetic",
     "aesthetic", "very aesthetic", "extremely aesthetic"],
    [0.10, 0.25, 0.30, 0.40, 0.50, 0.70, 0.80, 0.90],
)  # fmt: skip
QUALITY = (
    ["worst quality", "low quality", "bad quality", "normal quality", "medium quality", "great quality", "high quality",
     "best quality"],
    [0.025, 0.125, 0.250, 0.500, 0.750, 0.900, 0.980],
)  # fmt: skip


def text(**post: object) -> str:
    """The caption of one post; `aesthetic_score` and `quality_score` are columns only where they are given."""
    values = {"id": 1, "created_at": "2016-03-04T05:06:07.089-05:00", "rating": 0, "fav_count": 5, "tags": []} | post
    types = {"created_at": pl.String, "rating": pl.Int8, "fav_count": pl.Int32, "tags": pl.List(pl.Int32)}
    types |= {name: pl.Float64 for name in ("aesthetic_score", "quality_score") if name in post}
    posts = pl.DataFrame([values], schema_overrides=types)
    vocabulary = vocabulary_of(TAGS, SOTE)
    return texts_of(words_of(posts, vocabulary, SOTE), vocabulary, SOTE).item()


def test_order_of_the_parts():
    assert text(tags=[6, 2, 9, 3, 5, 4, 8, 1, 7], rating=3, aesthetic_score=0.95, quality_score=0.6) == (
        "extremely aesthetic, medium quality, mid, anime wallpaper, visual_novel_cg, explicit nsfw, mika, lorelei,"
        " lorelei no uta, long hair, male focus, 1girl"
    )


def test_custom_words_come_before_all_tags_and_keep_their_underscores():
    assert text(tags=[1, 4, 7], created_at=None) == "visual_novel_cg, general, mika, lorelei, 1girl"


@pytest.mark.parametrize(("rating", "word"), [(0, "general"), (1, "sensitive"), (2, "nsfw"), (3, "explicit nsfw"), (None, None)])
def test_rating_words(rating: int | None, word: str | None):
    assert text(rating=rating) == ", ".join(filter(None, ["mid", word]))


@pytest.mark.parametrize(
    ("year", "word"),
    [
        (2004, None), (2005, "oldest"), (2010, "oldest"), (2011, "early"), (2014, "early"), (2015, "mid"), (2018, "mid"),
        (2019, "recent"), (2021, "recent"), (2022, "newest"), (2024, "newest"), (2025, None), (2031, None),
    ],
)  # fmt: skip
def test_year_words(year: int, word: str | None):
    assert text(created_at=f"{year}-12-31T23:59:59.999-05:00") == ", ".join(filter(None, [word, "general"]))


@pytest.mark.parametrize("created_at", [None, "", "unknown", "10:30"])
def test_without_a_date_there_is_no_year_word(created_at: str | None):
    assert text(created_at=created_at) == "general"


@pytest.mark.parametrize(("column", "words"), [("aesthetic_score", AESTHETIC), ("quality_score", QUALITY)])
@settings(max_examples=60)
@given(data=st.data())
def test_a_score_must_exceed_its_threshold(column: str, words: tuple[list[str], list[float]], data: st.DataObject):
    names, thresholds = words
    near = [t + d for t in thresholds for d in (-1e-9, 0.0, 1e-9)]
    score = data.draw(st.one_of(st.sampled_from(near), st.floats(-1, 2, allow_nan=False)))
    assert text(**{column: score}) == f"{names[sum(score > t for t in thresholds)]}, mid, general"


@pytest.mark.golden
@pytest.mark.parametrize("kind", ["aesthetic", "quality"])
@pytest.mark.parametrize(("name", "column"), [("sotediffusion", "card"), ("sotediffusion-scripts", "code")])
def test_scores_have_the_words_of_card_and_scripts(golden: Path, kind: str, name: str, column: str):
    cases = json.loads((golden / "evaluate" / "sote" / "set" / "expected.json").read_text(encoding="utf-8"))[kind]
    words = profile(name).scores[kind]
    levels = score_levels(words, np.array([case["score"] for case in cases]))
    assert [quality_words(words)[level] for level in levels] == [case[column] for case in cases]


@pytest.mark.parametrize("column", ["aesthetic_score", "quality_score"])
@pytest.mark.parametrize("score", [None, float("nan")])
def test_a_post_without_a_score_has_no_word_for_it(column: str, score: float | None):
    assert text(**{column: score}) == "mid, general"


def test_nothing_at_all_gives_an_empty_text():
    assert text(created_at=None, rating=None) == ""
    assert text(created_at=None, rating=None, tags=[3, 6]) == ""
    assert text(created_at=None, rating=None, tags=[2, 1, 2]) == "long hair, 1girl, long hair"


def test_custom_words_open_the_captions_of_other_profiles_too():
    posts = pl.DataFrame(
        {"id": [2**52], "created_at": [None], "rating": [0], "fav_count": [None], "tags": [[1, 4, 7]]},
        schema={"id": pl.Int64, "created_at": pl.String, "rating": pl.Int8, "fav_count": pl.Int32, "tags": pl.List(pl.Int32)},
    )
    rules = profile("kohaku-xl-epsilon")
    vocabulary = vocabulary_of(TAGS, rules)
    caption = texts_of(words_of(posts, vocabulary, rules), vocabulary, rules).item()
    assert caption == "visual_novel_cg, 1girl, mika (lorelei), |||early, safe"


RATING_NAMES = ("general", "sensitive", "questionable", "explicit")
NAMES_OF_RATINGS = [(1, "questionable", 0), (2, "explicit", 0), (3, "x", 0), (4, "questionable", 5), (5, "explicit", 5)]
POSTS = st.tuples(
    st.sampled_from([None, 2023]), st.integers(0, 3), st.lists(st.integers(1, 5), max_size=7), st.sampled_from([None, 0.6])
)


@settings(max_examples=100)
@given(rows=st.lists(POSTS, min_size=1, max_size=4))
def test_exact_wording_replaces_ratings_between_commas_as_the_script_does(rows: list[tuple]):
    """The script's two calls of str.replace over each line, retold; a line's neighbours do not count."""
    caption = load_params(Path("recipes/sotediffusion-base.yaml")).caption
    tags = pl.DataFrame(NAMES_OF_RATINGS, schema=TAGS.schema, orient="row")
    name_of = {number: name for number, name, _ in NAMES_OF_RATINGS}
    posts = pl.DataFrame(
        {
            "id": range(len(rows)), "created_at": [year and f"{year}-01-02" for year, *_ in rows],
            "rating": [rating for _, rating, *_ in rows], "fav_count": [1] * len(rows),
            "tags": [own for _, _, own, _ in rows], "quality_score": [score for *_, score in rows],
        },
        schema_overrides={"created_at": pl.String, "tags": pl.List(pl.Int32), "quality_score": pl.Float64},
    )  # fmt: skip
    expected = []
    for year, rating, own, score in rows:
        custom, others = ([name_of[i] for i in own if (i > 3) == is_custom] for is_custom in (True, False))
        line = ", ".join([*(["newest"] if year else []), *custom, RATING_NAMES[rating], *others])
        line = line.replace(", questionable,", ", nsfw,").replace(", explicit,", ", explicit nsfw,")
        expected.append(f"medium quality, {line}" if score else line)
    rules = worded(SOTE, caption)
    vocabulary = vocabulary_of(tags, rules)
    assert texts_of(words_of(posts, vocabulary, rules), vocabulary, rules).to_list() == expected


def test_clean_wording_and_captions_of_metadata_have_the_profile_as_it_is():
    caption = load_params(Path("recipes/sotediffusion-base.yaml")).caption
    assert worded(SOTE, caption) != SOTE
    for changes in ({"wording": "clean"}, {"tags": "metadata"}):
        assert worded(SOTE, caption.model_copy(update=changes)) == SOTE
    haku = profile("kohaku-xl-epsilon")
    assert worded(haku, caption) == haku
