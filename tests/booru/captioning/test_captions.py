"""Captions: the reference's answers, and a plain retelling of its rules on random posts."""

import json
from pathlib import Path

from repro.randomness import Stream

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from booru.captioning.captions import PIECE, captions_of, count_posts, places_of_parts, texts_of, vocabulary_of, words_of
from booru.captioning.profiles import Profile, profile
from booru.metadata.reader import MetadataReader, open_metadata
from booru.metadata.relations import RelationBlocks, blocks_of
from booru.metadata.schema import CAPTION_COLUMNS

GOLDEN_KEYS = {
    "kohaku-xl-delta": "delta_2024_02_14",
    "kohaku-xl-epsilon": "epsilon_2024_04_12",
    "hakubooru-delta": "delta",
    "hakubooru-epsilon": "epsilon",
}
POST_TYPES = {"id": pl.Int64, "created_at": pl.String, "rating": pl.Int8, "fav_count": pl.Int32, "tags": pl.List(pl.Int32)}
TAG_TYPES = {"id": pl.Int64, "name": pl.String, "type": pl.Int64}


def captioned(posts: pl.DataFrame, tags: pl.DataFrame, rules: Profile) -> tuple[list[str], list[list[str]], list[list[str]]]:
    """Text, words of the kept part and words of the general part of each post."""
    vocabulary = vocabulary_of(tags, rules)
    words = words_of(posts, vocabulary, rules)
    frame = captions_of(posts, words, rules)
    assert frame["id"].equals(posts["id"])
    names = vocabulary.words.to_list()
    keep, general = ([[names[i] for i in row] for row in frame[part].to_list()] for part in ("keep", "general"))
    return texts_of(words, vocabulary, rules).to_list(), keep, general


@pytest.mark.golden
@pytest.mark.parametrize("name", GOLDEN_KEYS)
def test_captions_are_the_references_byte_for_byte(golden: Path, tmp_path: Path, name: str):
    answers = json.loads((golden / "captions" / "captions.json").read_text(encoding="utf-8"))
    with open_metadata(golden / "captions" / "golden2k.db", CAPTION_COLUMNS) as source:
        tags, blocks = source.tags(), blocks_of(source.id_bounds(), source.post_count())
        relations = RelationBlocks(tmp_path / "relations")
        relations.fill(source, blocks)
        reader = MetadataReader(source, tags, relations)
        posts = pl.concat(reader.read(block).posts for block in blocks)
    captions = dict(zip(posts["id"], captioned(posts, tags, profile(name))[0], strict=True))
    assert captions.keys() >= {int(i) for i in answers}
    differing = {i: captions[int(i)] for i, answer in answers.items() if captions[int(i)] != answer[GOLDEN_KEYS[name]]}
    assert not differing


# The rules of HakuBooru once more, in plain Python; facts: its three revisions that profiles.yaml names.
RATING_WORDS = (["safe"], ["sensitive"], ["nsfw"], ["explicit", "nsfw"])
# By rating, the favourites that a post must exceed, from the lowest word to the highest.
DELTA_THRESHOLDS = ((1, 3, 8, 16, 22, 37), (2, 6, 15, 30, 44, 81), (8, 18, 38, 75, 105, 182), (9, 22, 52, 106, 151, 262))
EPSILON_THRESHOLDS = ((1, 4, 7, 10, 16, 27), (2, 8, 13, 19, 30, 56), (8, 21, 33, 49, 75, 132), (9, 27, 45, 69, 106, 190))
QUALITIES = ("worst quality", "low quality", "normal quality", "good quality", "great quality", "best quality", "masterpiece")
PEOPLE = [f"{n}{kind}{'s' if n != '1' else ''}" for kind in ("girl", "boy", "other") for n in ("1", "2", "3", "4", "5", "6+")]
SPECIAL = {*PEOPLE, "multiple_girls", "multiple_boys", "multiple_others", "male_focus"}
NOISE = ("(medium)", "commentary", "bad", "translat", "request", "mismatch", "revision", "audio", "video")
RETOLD = {
    "kohaku-xl-delta": (DELTA_THRESHOLDS, 7_000_000, False),
    "kohaku-xl-epsilon": (EPSILON_THRESHOLDS, 7_100_000, True),
    "hakubooru-delta": (DELTA_THRESHOLDS, 7_000_000, True),
    "hakubooru-epsilon": (EPSILON_THRESHOLDS, 7_500_000, True),
}


def as_captions_write(name: str) -> str:
    return name.replace("_", " ") if len(name) > 3 else name


def haku_year(created_at: str | None) -> list[str]:
    year = int(created_at[:4]) if created_at and created_at[:4].isdigit() else 0
    if 2005 <= year <= 2010:
        return ["old"]
    return [word for last, word in ((2014, "early"), (2017, "mid"), (2020, "recent"), (2024, "newest")) if year <= last][:1]


def haku_caption(name: str, row: dict, tags: dict[int, tuple[str, int]]) -> str:
    """HakuBooru's caption of one post."""
    thresholds, last_id, without_banned = RETOLD[name]
    special, characters, series, artists, general, meta = [], [], [], [], [], []
    for tag_id in row["tags"]:
        tag, kind = tags[tag_id]
        text = as_captions_write(tag)
        if not text.strip():
            continue
        if kind == 0:
            (special if tag in SPECIAL else general).append(text)
        elif kind == 1 and not (without_banned and "banned" in tag):
            artists.append(text)
        elif kind == 2:
            characters.append(text)
        elif kind == 3:
            series.append(text)
        elif kind == 4 and not any(noise in tag for noise in NOISE):
            meta.append(text)
    quality = []
    if row["id"] <= last_id:
        quality = [QUALITIES[sum(row["fav_count"] > t for t in thresholds[row["rating"]])]]
    end = general + meta + haku_year(row["created_at"]) + RATING_WORDS[row["rating"]] + quality
    return ", ".join(special + characters + series + artists) + ", " + "|||" + ", ".join(end)


FRAGMENTS = [
    "_", "__", "a", "é", "(", ")", "_(fate)", "long", "banned", "bad", "video", "(medium)", "request", "|||", ",", ", ", "ミク",
    " ", "\u3000", "\x1c", "\n", "\t", "\\", "'", '"', ":3", "^_^", "<o>_<o>", "👩‍👧", "\u2028", "\x00", "\x7f",
]  # fmt: skip
AWKWARD_NAMES = st.one_of(
    st.lists(st.sampled_from(FRAGMENTS), max_size=5).map("".join),
    st.sampled_from(["1girl", "6+boys", "male_focus", "solo", "banned_artist", "bad_food", "translated", "multiple_girls"]),
    st.text(max_size=6),
)
DATES = st.one_of(
    st.sampled_from([None, "", "unknown", "2004-12-31T23:59:59.999-05:00", "2025-01-01T00:00:00.000-05:00"]),
    st.integers(2004, 2026).map(lambda year: f"{year}-12-31T23:59:59.999-05:00"),
)
IDS = st.one_of(st.sampled_from([7_000_000, 7_000_001, 7_100_000, 7_100_001, 7_500_000, 7_500_001]), st.integers(1, 2**31))
FAVOURITES = st.one_of(
    st.sampled_from(sorted({t + d for table in DELTA_THRESHOLDS + EPSILON_THRESHOLDS for t in table for d in (0, 1)})),
    st.integers(-3, 300),
)


@st.composite
def boorus(draw, types: int = 5) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Posts, ascending by id, and a tag table; a post may have a tag twice, and none at all."""
    named = draw(st.lists(st.tuples(AWKWARD_NAMES, st.integers(0, types - 1)), min_size=1, max_size=12))
    ids = sorted(draw(st.lists(st.integers(0, 5000), min_size=len(named), max_size=len(named), unique=True)))
    rows = [
        {
            "id": post_id,
            "created_at": draw(DATES),
            "rating": draw(st.integers(0, 3)),
            "fav_count": draw(FAVOURITES),
            "tags": draw(st.lists(st.sampled_from(ids), max_size=12)),
        }
        for post_id in sorted(draw(st.sets(IDS, min_size=1, max_size=6)))
    ]
    tags = [(i, name, kind) for i, (name, kind) in zip(ids, named, strict=True)]
    return pl.DataFrame(rows, schema=POST_TYPES), pl.DataFrame(tags, schema=TAG_TYPES, orient="row")


@pytest.mark.parametrize("name", RETOLD)
@settings(max_examples=70)
@given(booru=boorus())
def test_texts_and_lists_are_the_rules_retold(name: str, booru: tuple[pl.DataFrame, pl.DataFrame]):
    posts, tags = booru
    known = {tag_id: (tag, kind) for tag_id, tag, kind in tags.iter_rows()}
    texts, keep, general = captioned(posts, tags, profile(name))
    assert texts == [haku_caption(name, row, known) for row in posts.iter_rows(named=True)]
    assert texts == [", ".join(k) + ", |||" + ", ".join(g) for k, g in zip(keep, general, strict=True)]


def many_posts(n_posts: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    draws = Stream(7, "test booru")
    names = [*sorted(SPECIAL), *(f"tag_{i}" for i in range(300)), "^_^", "____"]
    tags = pl.DataFrame([(3 * i, name, draws.below(5)) for i, name in enumerate(names)], schema=TAG_TYPES, orient="row")
    rows = [
        {
            "id": 6_990_000 + 5 * i,
            "created_at": f"{2003 + draws.below(24)}-05-19T01:30:25.096-04:00",
            "rating": draws.below(4),
            "fav_count": draws.below(300),
            "tags": [3 * draws.below(len(names)) for _ in range(draws.below(9))],
        }
        for i in range(n_posts)
    ]
    return pl.DataFrame(rows, schema=POST_TYPES), tags


@pytest.mark.parametrize("name", ["kohaku-xl-epsilon", "sotediffusion"])
def test_a_post_has_the_same_caption_alone_as_in_a_full_piece(name: str):
    posts, tags = many_posts(PIECE)
    rules = profile(name)
    whole = captioned(posts, tags, rules)
    for row in (0, 1, 2, PIECE // 2, PIECE - 2, PIECE - 1):
        assert [part[row] for part in whole] == [part[0] for part in captioned(posts[row], tags, rules)]
    if name in RETOLD:
        known = {tag_id: (tag, kind) for tag_id, tag, kind in tags.iter_rows()}
        assert whole[0] == [haku_caption(name, row, known) for row in posts.iter_rows(named=True)]


def test_a_doubled_tag_stands_twice_in_the_text_and_counts_once():
    rules = profile("kohaku-xl-epsilon")
    tags = pl.DataFrame([(1, "ann_b", 1), (2, "banned_bob", 1), (3, "cat", 2), (4, "ann_b", 0)], schema=TAG_TYPES, orient="row")
    rows = [(1, "2015-01-01", 0, 1, [1, 1, 2, 3]), (2, "2016-01-01", 0, 1, [1, 4]), (3, "2016-01-01", 0, 1, [])]
    posts = pl.DataFrame(rows, schema=POST_TYPES, orient="row")
    texts, _, _ = captioned(posts, tags, rules)
    assert texts[0] == "cat, ann b, ann b, |||mid, safe, worst quality"
    assert texts[2] == ", |||mid, safe, worst quality"
    words = words_of(posts, vocabulary_of(tags, rules), rules)

    def counted(part: str) -> np.ndarray:
        chosen = words.part == places_of_parts(rules)[part]
        return count_posts(words.row[chosen], words.word[chosen])

    artists, characters = counted("artist"), counted("character")
    assert artists.tolist() == [2]
    assert characters.tolist() == [0, 0, 1]
    assert np.sum(counted("copyright")) == 0


def test_no_posts_have_no_captions():
    _, tags = many_posts(1)
    assert captioned(pl.DataFrame(schema=POST_TYPES), tags, profile("kohaku-xl-delta")) == ([], [], [])


def test_an_empty_tag_table_still_gives_years_ratings_and_qualities():
    posts = pl.DataFrame([(1, "2012-01-01", 3, 9, [])], schema=POST_TYPES, orient="row")
    texts, _, _ = captioned(posts, pl.DataFrame(schema=TAG_TYPES), profile("kohaku-xl-delta"))
    assert texts == [", |||early, explicit, nsfw, worst quality"]
