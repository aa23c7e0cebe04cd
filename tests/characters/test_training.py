"""What the training captions say of characters: counts, those to evaluate, their artists, what was seen."""

import json
from pathlib import Path

from repro.errors import StageError
from repro.params import load_params

import numpy as np
import polars as pl
import pytest
from tiny_characters import ID, MIKA, TAGS, Booru, ids_of, make_booru, picture

from booru.images.archives import ImageIndex
from booru.shards import read_tags
from characters.training import (
    NamingCaptions,
    TrainingPictures,
    among,
    characters_to_evaluate,
    digest_numbers,
    read_training_counts,
)


def by(artist: str | None, *characters: str) -> dict:
    return {"tags": ids_of(["solo", *characters, *([artist] if artist else [])])}


TRAINED = {
    1000: by("zoish", MIKA), 2000: by("zoish", MIKA, MIKA, "rin"), 3000: by("aoi_a", MIKA), 4000: by("rembrandt", MIKA),
    5000: by("rembrandt", "extra"), 6000: by(None, MIKA), 7000: {"tags": ids_of(["rin", "aoi_a", "zoish"])},
}  # fmt: skip


@pytest.fixture(scope="module")
def booru(tmp_path_factory: pytest.TempPathFactory) -> Booru:
    posts = TRAINED | {8000: by("zoish", MIKA), 9000: {}}
    return make_booru(tmp_path_factory.mktemp("training"), posts, list(TRAINED), {9000: picture(2000)}, shard_posts=3000)


def naming(booru: Booru, *characters: str) -> NamingCaptions:
    return NamingCaptions(booru.captions, read_tags(booru.metadata), characters)


def test_artists_by_captions_then_by_name(booru: Booru):
    found = naming(booru, "rin", MIKA, "nobody").artists(8)
    assert found == [("zoish", "aoi_a"), ("zoish", "aoi_a", "rembrandt"), ()]
    assert naming(booru, MIKA).artists(2) == [("zoish", "aoi_a")]


def test_pictures_that_name_a_chosen_character(booru: Booru):
    index = ImageIndex(booru.index)
    found = naming(booru, "rin", MIKA).pictures([0], index, ["member"])
    assert found.rows() == [(0, "2000.png"), (0, "7000.png")]
    assert naming(booru, "rin", MIKA).pictures([0, 1], index, ["member"]).height == 7
    assert naming(booru, "rin", MIKA).pictures([], index, ["member"]).height == 0


def test_seen_is_what_has_a_caption_or_the_same_file(booru: Booru):
    index = ImageIndex(booru.index)
    posts = index.frame(["id", "sha256"])
    seen = TrainingPictures(booru.captions, index).seen(posts["id"], posts["sha256"])
    assert posts["id"].filter(pl.Series(seen)).to_list() == [*TRAINED, 9000]


def test_captions_of_another_tag_table_are_refused(booru: Booru):
    tags = read_tags(booru.metadata)
    shifted = tags.with_columns(name=pl.when(pl.col("id") == ID["zoish"]).then(pl.lit("somebody")).otherwise("name"))
    for other in (shifted, pl.concat([tags, *[tags.tail(1)] * 100])):
        with pytest.raises(StageError, match=r"were not made from the tag table of evaluate.references.source"):
            NamingCaptions(booru.captions, other, [MIKA])
    assert len(TAGS) == tags.height


def settings(**changes):
    return load_params(Path("params.yaml")).evaluate.references.model_copy(update={"most_characters": None} | changes)


def test_characters_to_evaluate_have_most_training_pictures():
    counts = {"rin": 41, "mika": 60, "aoi": 41, "few": 39, "nia": 41}
    assert characters_to_evaluate(counts, settings(min_posts=40)) == ["aoi", "mika", "nia", "rin"]
    assert characters_to_evaluate(counts, settings(min_posts=40, most_characters=3)) == ["aoi", "mika", "nia"]
    with pytest.raises(StageError, match=r"no character has 61 training pictures, the most has 60; lower evaluate.references.mi"):
        characters_to_evaluate(counts, settings(min_posts=61))


def test_counts_are_read_as_the_caption_stage_writes_them(booru: Booru, tmp_path: Path):
    assert read_training_counts(booru.characters) == {MIKA: 5, "rin": 2, "extra": 1}
    path = tmp_path / "characters.json"
    with pytest.raises(StageError, match="no such file"):
        read_training_counts(path)
    for content, message in (({"mika": {"class": "< 100"}}, "mika.posts: Field required"), ([], "should be an object")):
        path.write_text(json.dumps(content))
        with pytest.raises(StageError, match=message):
            read_training_counts(path)


def test_digests_without_digits_are_no_number():
    digests = pl.Series(["0" * 31 + "a", "f" * 32, None, "", "no digest at all"])
    assert digest_numbers(digests).tolist() == [10, (1 << 60) - 1, -1, -1, -1]


def test_among():
    assert among(np.array([5, 1, 9, 0]), np.array([1, 5, 8])).tolist() == [True, True, False, False]
    assert among(np.array([5]), np.empty(0, dtype=np.int64)).tolist() == [False]
