"""Posts as models describe them: order and thresholds of tags, what is not trained on, scores, repeats, texts."""

import json
from pathlib import Path

from repro.errors import StageError
from repro.params import Caption, load_params

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_annotations import PLACE, PREFIX, VOCABULARY, tagger_row, write_annotations
from tiny_booru import METADATA_COLUMNS, TAGS, metadata_post

from booru.captioning.annotated_posts import AnnotatedPosts, Asked, refuse_missing_annotations
from booru.captioning.annotations import annotated_kinds
from booru.captioning.captions import texts_of, vocabulary_of, words_of
from booru.captioning.profiles import profile
from booru.filtering.blocked import with_kin

CAPTION = load_params(Path(__file__).parents[3] / "recipes" / "sample.yaml").caption
FOLDER_TAGS = [*TAGS, (30, "visual novel cg", 5), (31, "art by Lisa_W", 5), (32, "anime wallpaper", 5)]
TAG_TABLE = pl.DataFrame([(*tag, 10) for tag in FOLDER_TAGS], schema=["id", "name", "type", "popularity"], orient="row")
SAFE = ("general", "sensitive")
RATINGS = (*SAFE, "questionable", "explicit")
BLOCKED = ("loli", "shota", "toddlercon")


def described(
    folder: Path, posts: list[dict], found: dict, ratings=SAFE, blocked=BLOCKED, vocabulary=VOCABULARY, **changes
) -> tuple[dict[int, dict], dict[int, str], AnnotatedPosts]:
    """The posts that stay, by id with the names of their tags, and the others' reasons."""
    folder = write_annotations(folder, found, vocabulary)
    caption = Caption.model_validate(CAPTION.model_dump() | {"tags": "annotations" if "tags" in found else "metadata"} | changes)
    asked = Asked(folder, tuple(annotated_kinds(folder)), caption.model_dump_json(), tuple(blocked), tuple(ratings))
    annotated = AnnotatedPosts(asked, TAG_TABLE)
    stay, dropped = annotated.described(pl.DataFrame(posts, schema=METADATA_COLUMNS), 0)
    names = dict(annotated.tags.select("id", "name").iter_rows())
    rows = {row["id"]: row | {"tags": [names[i] for i in row["tags"]]} for row in stay.to_dicts()}
    return rows, dict(dropped.iter_rows()), annotated


def tags_of(folder: Path, probabilities: dict[str, float], **changes) -> list[str]:
    rows, reasons, _ = described(folder, [metadata_post(1)], {"tags": {1: tagger_row(probabilities)}}, **changes)
    assert not reasons
    return rows[1]["tags"]


def test_characters_come_first_and_in_reverse_then_general_tags_in_order(tmp_path: Path):
    names = ["1girl", "solo", "long_hair", "^_^", "hatsune_miku", "skadi_(arknights)", "saber_(fate)"]
    expected = ["saber_(fate)", "skadi_(arknights)", "hatsune_miku", "1girl", "solo", "long_hair", "^_^"]
    assert tags_of(tmp_path / "a", dict.fromkeys(names, 0.9)) == expected


def test_a_probability_at_its_threshold_is_enough(tmp_path: Path):
    below = float(np.nextafter(np.float32(0.5), np.float32(0)))
    found = {"1girl": 0.25, "solo": 0.2499, "hatsune_miku": 0.5, "saber_(fate)": below, "skadi_(arknights)": 0.3}
    changes = {"general_threshold": 0.25, "character_threshold": 0.5}
    assert tags_of(tmp_path / "a", found, **changes) == ["hatsune_miku", "1girl"]


def test_the_metadatas_words_of_folders_stay_and_its_tags_do_not(tmp_path: Path):
    posts = [metadata_post(1, tags=[3, 31, 7, 30, 5])]
    rows, _, _ = described(tmp_path / "a", posts, {"tags": {1: tagger_row({"1girl": 0.9, "hatsune_miku": 0.9})}})
    assert rows[1]["tags"] == ["art by Lisa_W", "visual novel cg", "hatsune_miku", "1girl"]


@pytest.mark.parametrize("rating", ["general", "sensitive", "questionable", "explicit"])
@pytest.mark.parametrize("own", [0, 3, None])
def test_the_rating_is_the_taggers_and_must_be_allowed(tmp_path: Path, rating: str, own: int | None):
    found = {"tags": {1: tagger_row({"1girl": 0.9}, rating)}}
    rows, reasons, _ = described(tmp_path / "a", [metadata_post(1, rating=own)], found)
    if rating in SAFE:
        assert (rows[1]["rating"], reasons) == (SAFE.index(rating), {})
    else:
        assert (rows, reasons) == ({}, {1: "rating not allowed"})


def test_of_equal_ratings_the_first_counts(tmp_path: Path):
    row = tagger_row({}) | {"ratings": [0.2, 0.4, 0.4, 0.1]}
    assert described(tmp_path / "a", [metadata_post(1)], {"tags": {1: row}})[0][1]["rating"] == 1


@pytest.mark.parametrize("tag", ["loli", "oppai_loli"])
@pytest.mark.parametrize("probability", [0.35, 0.36, 0.6, 1.0])
@pytest.mark.parametrize("threshold", [0.2, 0.35, 0.9])
def test_blocked_tags_and_their_kin_are_dropped_before_all_else(tmp_path: Path, tag: str, probability: float, threshold: float):
    """Also where captions have only tags of a higher probability."""
    found = {"tags": {1: tagger_row({"1girl": 0.99, tag: probability + 1e-6}, "explicit"), 2: tagger_row({"1girl": 0.99})}}
    rows, reasons, _ = described(tmp_path / "a", [metadata_post(1), metadata_post(2)], found, general_threshold=threshold)
    assert list(rows) == [2]
    assert reasons == {1: "blocked tag"}


def test_a_blocked_tag_below_the_usual_threshold_counts_where_captions_would_have_it(tmp_path: Path):
    found = {"tags": {1: tagger_row({"loli": 0.3})}}
    assert described(tmp_path / "a", [metadata_post(1)], found, general_threshold=0.3)[1] == {1: "blocked tag"}
    assert described(tmp_path / "b", [metadata_post(1)], found, general_threshold=0.31)[1] == {}


@pytest.mark.parametrize("name", ["Loli", "toddlercon", "hina_(shota)", "shota_(game)", "onee-shota", "straight shota"])
@pytest.mark.parametrize("category", [0, 4])
def test_blocked_names_are_known_however_they_are_spelled_and_in_pieces(tmp_path: Path, name: str, category: int):
    vocabulary = [*VOCABULARY, (name, category)]
    row = {"ratings": [0.9, 0.1, 0.1, 0.1], "tags": [4, len(VOCABULARY)], "probabilities": [0.9, 0.8]}
    pieces = [name] if category == 0 else [name, *name.rstrip(")").split("_(")]
    expected = any(piece.lower().replace(" ", "_") in with_kin(list(BLOCKED)) for piece in pieces) or "(" in name
    rows, reasons, _ = described(tmp_path / "a", [metadata_post(1)], {"tags": {1: row}}, vocabulary=vocabulary)
    assert (reasons == {1: "blocked tag"}) == expected
    assert bool(rows) != expected


def test_the_recipes_own_blocked_tags_count_and_none_of_the_fixed_ones_can_be_left_out(tmp_path: Path):
    found = {"tags": {1: tagger_row({"solo": 0.9}), 2: tagger_row({"loli": 0.9}), 3: tagger_row({"lollipop": 0.9})}}
    posts = [metadata_post(i) for i in (1, 2, 3)]
    assert described(tmp_path / "a", posts, found, blocked=["solo"])[1] == {1: "blocked tag", 2: "blocked tag"}


TAG_NAMES = [name for name, category in VOCABULARY if category != 9]
PROBABILITIES = st.dictionaries(st.sampled_from(TAG_NAMES), st.floats(0, 1, width=32), max_size=8)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(PROBABILITIES, st.permutations([0.1, 0.2, 0.3, 0.4])), min_size=1, max_size=6),
    general=st.floats(0, 1),
    character=st.floats(0, 1),
)
def test_tags_are_the_rules_retold(tmp_path_factory, rows: list, general: float, character: float):
    found = {i: tagger_row(probabilities) | {"ratings": ratings} for i, (probabilities, ratings) in enumerate(rows, start=1)}
    posts = [metadata_post(i, tags=[30] if i % 2 else [1]) for i in found]
    thresholds = {"general_threshold": general, "character_threshold": character}
    stay, reasons, _ = described(tmp_path_factory.mktemp("a") / "a", posts, {"tags": found}, **thresholds)
    for i, (probabilities, ratings) in enumerate(rows, start=1):
        own = {}
        for name, probability in probabilities.items():
            own[name] = float(np.float32(probability))
        rating = ratings.index(max(ratings))
        if any(own.get(name, -1) >= min(general, 0.35) for name in ("loli", "oppai_loli")):
            assert reasons[i] == "blocked tag"
        elif rating > 1:
            assert reasons[i] == "rating not allowed"
        else:
            characters = [n for n in reversed(TAG_NAMES) if PLACE[n] >= 12 and own.get(n, -1) >= character]
            others = [n for n in TAG_NAMES if PLACE[n] < 12 and own.get(n, -1) >= general]
            assert stay[i]["tags"] == (["visual novel cg"] if i % 2 else []) + characters + others
            assert stay[i]["rating"] == rating
    assert len(stay) + len(reasons) == len(rows)


SCORES = {
    "aesthetic": {1: {"score": 0.5}, 2: {"score": 0.95}, 3: {"score": 0.95}},
    "quality": {1: {"score": 0.99}, 2: {"score": 0.5}, 3: {"score": 0.99}},
}


@pytest.mark.parametrize(
    ("aesthetic", "quality", "expected"),
    [
        (0.5, None, {1: "aesthetic score too low"}),
        (0.4999, None, {}),
        (None, 0.5, {2: "quality score too low"}),
        (0.9, 0.9, {1: "aesthetic score too low", 2: "quality score too low"}),
        (0.96, 0.995, dict.fromkeys((1, 2, 3), "aesthetic score too low")),
    ],
)
def test_posts_not_above_the_scores_are_dropped(tmp_path: Path, aesthetic, quality, expected: dict):
    posts = [metadata_post(i) for i in (1, 2, 3)]
    rows, reasons, _ = described(tmp_path / "a", posts, SCORES, above={"aesthetic": aesthetic, "quality": quality})
    assert reasons == expected
    assert sorted([*rows, *reasons]) == [1, 2, 3]


def test_repeats_are_added_to_those_that_the_posts_have(tmp_path: Path):
    rules = [
        {"aesthetic": 0.9, "quality": None, "extra": 5},
        {"aesthetic": 0.9, "quality": 0.9, "extra": 2},
        {"aesthetic": None, "quality": 0.99, "extra": 100},
    ]
    posts = [metadata_post(i) for i in (1, 2, 3)]
    rows, _, annotated = described(tmp_path / "a", posts, SCORES, repeats=rules)
    bound = float(np.float32(0.99))  # 0.99 as a score of 32 bits is above 0.99
    extra = 100 if bound > 0.99 else 0
    assert {i: row["repeats"] for i, row in rows.items()} == {1: 1 + extra, 2: 6, 3: 8 + extra}
    own = pl.DataFrame(posts, schema=METADATA_COLUMNS).with_columns(repeats=pl.Series([2, 3, 4], dtype=pl.Int32))
    stay, _ = annotated.described(own, 0)
    assert stay["repeats"].to_list() == [2 + extra, 8, 11 + extra]
    assert stay.schema["repeats"] == pl.Int32


def test_metadata_tags_stay_where_the_recipe_says_so(tmp_path: Path):
    told = {1: tagger_row({}, "explicit"), 2: tagger_row({"loli": 0.36}), 3: tagger_row({"loli": 0.34}, "explicit")}
    found = SCORES | {"tags": told}
    thresholds = {"general_threshold": 0.9, "character_threshold": 0.9}
    rows, reasons, _ = described(tmp_path / "a", [metadata_post(i) for i in told], found, tags="metadata", **thresholds)
    assert reasons == {2: "blocked tag"}
    assert rows[3]["rating"] == metadata_post(3)["rating"]
    assert rows[1]["tags"] == ["long_hair", "1girl", "mika_(lorelei)", "lorelei", "lisa_w", "solo"]


def captions(folder: Path, posts: list[dict], found: dict, vocabulary=VOCABULARY, name="sotediffusion", **changes) -> list[str]:
    folder = write_annotations(folder, found, vocabulary)
    caption = Caption.model_validate(CAPTION.model_dump() | {"tags": "annotations"} | changes)
    asked = Asked(folder, tuple(annotated_kinds(folder)), caption.model_dump_json(), BLOCKED, RATINGS)
    annotated, rules = AnnotatedPosts(asked, TAG_TABLE), profile(name)
    words = vocabulary_of(annotated.tags, rules, annotated.texts)
    stay, _ = annotated.described(pl.DataFrame(posts, schema=METADATA_COLUMNS), 0)
    return texts_of(words_of(stay, words, rules), words, rules).to_list()


@pytest.mark.golden
@pytest.mark.parametrize("kind", ["aesthetic", "quality"])
@pytest.mark.parametrize(("name", "column"), [("sotediffusion", "card"), ("sotediffusion-scripts", "code")])
def test_scores_have_the_words_of_card_and_scripts(golden: Path, tmp_path: Path, kind: str, name: str, column: str):
    """At the neighbours of each threshold among floats of 32 bits, as annotations have them."""
    table = json.loads((golden / "evaluate" / "sote" / "set" / "expected.json").read_text(encoding="utf-8"))[kind]
    cases = [case for case in table if float(np.float32(case["score"])) == case["score"]]
    assert len(cases) >= 8
    found = {
        "tags": {i: tagger_row({"solo": 0.9}) for i, _ in enumerate(cases, start=1)},
        kind: {i: {"score": case["score"]} for i, case in enumerate(cases, start=1)},
    }
    posts = [metadata_post(i, created_at=None) for i in found["tags"]]
    assert captions(tmp_path / "a", posts, found, name=name) == [f"{case[column]}, general, solo" for case in cases]


def test_pieces_of_characters_stand_as_the_tagger_script_has_them(tmp_path: Path):
    tags = dict.fromkeys(["skadi_(arknights)", "amiya_(arknights)", "hatsune_miku", "1girl", "^_^"], 0.9)
    found = {"tags": {1: tagger_row(tags)}}
    expected = "mid, general, amiya, arknights, skadi, arknights, hatsune miku, 1girl, ^_^"
    assert captions(tmp_path / "a", [metadata_post(1)], found) == [expected]
    whole = captions(tmp_path / "b", [metadata_post(1)], found, name="kohaku-xl-epsilon")
    assert whole == ["1girl, amiya (arknights), skadi (arknights), hatsune miku, |||^_^, mid, safe, normal quality"]


@pytest.mark.parametrize(("mode", "expected"), [("exact", 'mid, general, solo, "'), ("clean", "mid, general, solo")])
def test_an_empty_answer(tmp_path: Path, mode: str, expected: str):
    found = {"tags": {1: tagger_row({"solo": 0.9})}, "text": {1: {"answer": f"{PREFIX} "}}}
    assert captions(tmp_path / "a", [metadata_post(1)], found, wording=mode) == [expected]


def test_each_post_has_its_own_text(tmp_path: Path):
    answers = {i: f'{PREFIX} The text says "{word}"' for i, word in [(1, "zzz"), (3, "aaa"), (4, "zzz")]}
    found = {
        "tags": {i: tagger_row({"solo": 0.9}) for i in range(1, 5)},
        "text": {i: {"answer": answer} for i, answer in answers.items()},
    }
    texts = captions(tmp_path / "a", [metadata_post(i) for i in range(1, 5)], found)
    ends = [text.removeprefix("mid, general, solo") for text in texts]
    assert ends == [', The text says "zzz"', "", ', The text says "aaa"', ', The text says "zzz"']


@pytest.mark.parametrize(
    ("changes", "kinds", "key"),
    [
        ({"tags": "annotations"}, ["aesthetic", "quality", "text"], "annotate.tags, which caption.tags: annotations"),
        (
            {"above": {"aesthetic": 0.5, "quality": None}},
            ["tags", "quality"],
            "annotate.aesthetic, which caption.above or repeats",
        ),
        (
            {"repeats": [{"aesthetic": None, "quality": 0.5, "extra": 1}]},
            ["aesthetic"],
            "annotate.quality, which caption.above or",
        ),
    ],
)
def test_annotations_that_captions_need_and_are_not_there(changes: dict, kinds: list[str], key: str):
    caption = Caption.model_validate(CAPTION.model_dump() | changes)
    with pytest.raises(StageError, match=f"data/a: no annotations of {key}"):
        refuse_missing_annotations(caption, kinds, "data/a")
    refuse_missing_annotations(caption, ["aesthetic", "quality", "tags", "text"], "data/a")


def test_annotations_of_other_posts_or_another_tagger_are_refused(tmp_path: Path):
    found = {"tags": {2: tagger_row({"solo": 0.9})}}
    with pytest.raises(StageError, match=r"tags-00000.parquet: post 1 is not there; annotate again"):
        described(tmp_path / "a", [metadata_post(1), metadata_post(2)], found)
    with pytest.raises(StageError, match=r"tags-00000.parquet: no annotations of these posts"):
        described(tmp_path / "b", [metadata_post(1)], {"tags": {200: tagger_row({"solo": 0.9})}})
    vocabulary = [("sensitive", 9), ("general", 9), *VOCABULARY[2:]]
    with pytest.raises(StageError, match=r"vocabulary.parquet: the tagger's ratings are sensitive, general"):
        described(tmp_path / "c", [metadata_post(2)], found, vocabulary=vocabulary)
    broken = write_annotations(tmp_path / "d", found)
    shard = broken / "tags" / "tags-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    with pytest.raises(StageError, match=r"tags-00000.parquet: missing, unexpected or changed"):
        annotated_kinds(broken)
    with pytest.raises(StageError, match="no such folder of annotations"):
        annotated_kinds(tmp_path / "none")
