"""Captions: the reference's answers, and a plain retelling of its rules on random posts."""

import json

from repro.randomness import Stream

import numpy as np
import polars as pl
import pytest

from booru.captioning.captions import captions_of, count_posts, vocabulary_of, words_of
from booru.captioning.profiles import Profile, profile, profiles
from booru.metadata.database import BooruDatabase

HEAD_WITH_DELTA_QUALITY = profile("hakubooru-head").model_copy(update={"quality": profile("kohaku-delta").quality})


def caption_frame(posts: pl.DataFrame, tags: pl.DataFrame, rules: Profile) -> pl.DataFrame:
    vocabulary = vocabulary_of(tags, rules)
    return captions_of(posts, words_of(posts, vocabulary, rules), vocabulary, rules)


@pytest.mark.golden
@pytest.mark.parametrize(
    ("key", "rules"),
    [
        ("delta_2024_02_14", profile("kohaku-delta")),
        ("epsilon_2024_04_12", profile("kohaku-epsilon")),
        ("epsilon", profile("hakubooru-head")),
        ("delta", HEAD_WITH_DELTA_QUALITY),
    ],
)
def test_captions_of_the_reference(golden, key, rules):
    answers = json.loads((golden / "captions" / "captions.json").read_text(encoding="utf-8"))
    with BooruDatabase(golden / "captions" / "golden2k.db") as database:
        tags = database.tags()
        ids = database.post_ids(0, 2**62)
        posts = database.posts(ids, tags["id"].to_numpy())
    captions = dict(caption_frame(posts, tags, rules).select("id", "caption").iter_rows())
    assert captions.keys() >= {int(i) for i in answers}
    differing = {i: (captions[int(i)], answer[key]) for i, answer in answers.items() if captions[int(i)] != answer[key]}
    assert not differing


YEARS = {2005: "old", 2011: "early", 2015: "mid", 2018: "recent", 2021: "newest", 2025: None}
RATING_WORDS = (["safe"], ["sensitive"], ["nsfw"], ["explicit", "nsfw"])
# By rating, the favourites that a post must exceed, from the lowest word to the highest.
DELTA_THRESHOLDS = ((1, 3, 8, 16, 22, 37), (2, 6, 15, 30, 44, 81), (8, 18, 38, 75, 105, 182), (9, 22, 52, 106, 151, 262))
EPSILON_THRESHOLDS = ((1, 4, 7, 10, 16, 27), (2, 8, 13, 19, 30, 56), (8, 21, 33, 49, 75, 132), (9, 27, 45, 69, 106, 190))
QUALITIES = ("worst quality", "low quality", "normal quality", "good quality", "great quality", "best quality", "masterpiece")
PEOPLE = [f"{n}{kind}{'s' if n != '1' else ''}" for kind in ("girl", "boy", "other") for n in ("1", "2", "3", "4", "5", "6+")]
SPECIAL = {*PEOPLE, "multiple_girls", "multiple_boys", "multiple_others", "male_focus"}
NOISE = ("(medium)", "commentary", "bad", "translat", "request", "mismatch", "revision", "audio", "video")
RETOLD = {
    "kohaku-delta": (DELTA_THRESHOLDS, 7_000_000, False),
    "kohaku-epsilon": (EPSILON_THRESHOLDS, 7_100_000, True),
    "hakubooru-head": (EPSILON_THRESHOLDS, 7_500_000, True),
}


def retold_caption(name: str, row: dict, tags: dict[int, tuple[str, int]]) -> str:
    """The reference's caption of one post, rule by rule, on Python strings."""
    thresholds, last_id, without_banned = RETOLD[name]
    parts = {part: [] for part in ("special", "character", "copyright", "artist", "general", "meta")}
    for tag_id in row["tags"]:
        tag, kind = tags[tag_id]
        text = tag.replace("_", " ") if len(tag) > 3 else tag
        if not text.strip():
            continue
        if kind == 0:
            parts["special" if tag in SPECIAL else "general"].append(text)
        elif kind == 1 and not (without_banned and "banned" in tag):
            parts["artist"].append(text)
        elif kind in (2, 3):
            parts["character" if kind == 2 else "copyright"].append(text)
        elif kind == 4 and not any(noise in tag for noise in NOISE):
            parts["meta"].append(text)
    general = parts["general"] + parts["meta"]
    year = int(row["created_at"][:4]) if row["created_at"][:4].isdigit() else 0
    year_words = ["early"] if year < 2005 else [YEARS[max(first for first in YEARS if first <= year)]]
    general += [word for word in year_words if word]
    general += RATING_WORDS[row["rating"]]
    if row["id"] <= last_id:
        general.append(QUALITIES[sum(row["fav_count"] > t for t in thresholds[row["rating"]])])
    keep = parts["special"] + parts["character"] + parts["copyright"] + parts["artist"]
    return ", ".join(keep) + ", " + "|||" + ", ".join(general)


def random_booru(seed: int, n_posts: int, n_tags: int = 400) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Posts and tags that meet every rule: odd names, doubled tags, posts without tags, all ages."""
    random = Stream(seed, "test booru")
    pieces = ["_", "a", "é", "(", ")", "long", "banned", "bad", "video", "(medium)", "request", "|||", ",", "ミ", " ", "\\"]
    names = {"".join(random.choice(pieces) for _ in range(random.below(6))) for _ in range(n_tags)} | SPECIAL | {"____"}
    names = sorted(names)
    tags = pl.DataFrame(
        {"id": [3 * i + 1 for i in range(len(names))], "name": names, "type": [random.below(5) for _ in names]},
        schema={"id": pl.Int64, "name": pl.String, "type": pl.Int64},
    )
    tag_ids = tags["id"].to_list()
    rows = []
    for i in range(n_posts):
        year = random.choice(["", "x", *map(str, range(2000, 2028))])
        rows.append(
            {
                "id": 6_900_000 + i * 700_000 // n_posts,
                "created_at": year and f"{year}-05-19T01:30:25.096-04:00",
                "rating": random.below(4),
                "fav_count": random.below(300) - 5,
                "tags": [random.choice(tag_ids) for _ in range(random.below(12))],
            }
        )
    return pl.DataFrame(rows, schema_overrides={"tags": pl.List(pl.Int32)}), tags


@pytest.mark.parametrize("name", list(profiles()))
def test_equals_the_rules_retold(name):
    posts, tags = random_booru(seed=7, n_posts=20_000)
    known = {tag_id: (tag, kind) for tag_id, tag, kind in tags.iter_rows()}
    frame = caption_frame(posts, tags, profile(name))
    assert frame["id"].equals(posts["id"])
    assert frame["caption"].to_list() == [retold_caption(name, row, known) for row in posts.iter_rows(named=True)]


def test_lists_and_text_agree():
    posts, tags = random_booru(seed=8, n_posts=500)
    frame = caption_frame(posts, tags, profile("kohaku-epsilon"))
    assert frame.schema == {"id": pl.Int64, "keep": pl.List(pl.String), "general": pl.List(pl.String), "caption": pl.String}
    assert frame["keep"].list.len().min() == 0
    for _, keep, general, caption in frame.iter_rows():
        assert caption == ", ".join(keep) + ", |||" + ", ".join(general)


def test_one_post_alone_has_the_caption_it_has_among_others():
    posts, tags = random_booru(seed=9, n_posts=60)
    together = caption_frame(posts, tags, profile("kohaku-delta"))
    alone = pl.concat(caption_frame(posts[i : i + 1], tags, profile("kohaku-delta")) for i in range(posts.height))
    assert alone.equals(together)


def test_posts_are_counted_once_and_dropped_tags_not_at_all():
    rules = profile("kohaku-epsilon")
    tags = pl.DataFrame({"id": [1, 2, 3], "name": ["ann", "banned_bob", "cat"], "type": [1, 1, 2]})
    posts = pl.DataFrame(
        {"id": [1, 2], "created_at": ["2015", "2016"], "rating": [0, 0], "fav_count": [1, 1], "tags": [[1, 1, 2, 3], [1]]},
        schema_overrides={"tags": pl.List(pl.Int32)},
    )
    vocabulary = vocabulary_of(tags, rules)
    words = words_of(posts, vocabulary, rules)
    artist = rules.keep.index("artist")
    assert count_posts(words, [artist], len(vocabulary.texts))[:3].tolist() == [2, 0, 0]
    assert np.sum(count_posts(words, [], len(vocabulary.texts))) == 0
