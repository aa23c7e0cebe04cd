"""The profile sotediffusion: order, words and years of its card, scores of two models, custom words as they stand."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from booru.captioning.captions import texts_of, vocabulary_of, words_of
from booru.captioning.profiles import profile

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
        "extremely aesthetic, medium quality, mid, anime wallpaper, visual_novel_cg, explicit nsfw, mika (lorelei),"
        " lorelei no uta, male focus, 1girl, long hair"
    )


def test_custom_words_come_before_all_tags_and_keep_their_underscores():
    assert text(tags=[1, 4, 7], created_at=None) == "visual_novel_cg, general, mika (lorelei), 1girl"


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


@pytest.mark.parametrize("column", ["aesthetic_score", "quality_score"])
@pytest.mark.parametrize("score", [None, float("nan")])
def test_a_post_without_a_score_has_no_word_for_it(column: str, score: float | None):
    assert text(**{column: score}) == "mid, general"


def test_nothing_at_all_gives_an_empty_text():
    assert text(created_at=None, rating=None) == ""
    assert text(created_at=None, rating=None, tags=[3, 6]) == ""
    assert text(created_at=None, rating=None, tags=[2, 1, 2]) == "1girl, long hair, long hair"


def test_custom_words_open_the_captions_of_other_profiles_too():
    posts = pl.DataFrame(
        {"id": [2**52], "created_at": [None], "rating": [0], "fav_count": [None], "tags": [[1, 4, 7]]},
        schema={"id": pl.Int64, "created_at": pl.String, "rating": pl.Int8, "fav_count": pl.Int32, "tags": pl.List(pl.Int32)},
    )
    rules = profile("kohaku-xl-epsilon")
    vocabulary = vocabulary_of(TAGS, rules)
    caption = texts_of(words_of(posts, vocabulary, rules), vocabulary, rules).item()
    assert caption == "visual_novel_cg, 1girl, mika (lorelei), |||early, safe"
