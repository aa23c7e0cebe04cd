"""Scores of the base population: from favourites, in the form of the annotate stage."""

from pathlib import Path

from repro.hashing import write_manifest
from repro.outputs import whole_folder

import numpy as np
import polars as pl
import pytest
from tiny_booru import folder_bytes

from booru.captioning.annotations import annotated_kinds, read_annotations, refuse_other_pictures
from booru.ratings import RATINGS
from booru.shards import write_frame
from sample.cascade_scores import favourite_percentiles, scores_of, write_scores


def posts(ratings: list[str], counts: list[int]) -> pl.DataFrame:
    places = [RATINGS.index(rating) for rating in ratings]
    return pl.DataFrame({"id": range(5, 5 + len(counts)), "rating": places, "fav_count": counts})


def test_percentiles_are_those_of_the_rating() -> None:
    frame = posts(["general", "general", "sensitive", "general", "general"], [0, 10, 10, 26, 1000])
    assert favourite_percentiles(frame) == pytest.approx([0.0, 0.60, 0.36, 0.89, 0.95])


def test_clean_pictures_get_the_high_quality_score() -> None:
    scores = scores_of(posts(["general"] * 4, [0, 4, 10, 11]))
    assert scores["quality"] == pytest.approx([0.01, 0.30, 0.60, 0.99])
    assert scores["aesthetic"].dtype == scores["quality"].dtype == np.float32


def test_the_folder_is_one_of_annotations(tmp_path: Path) -> None:
    frame = posts(["general"] * 3, [0, 10, 40]).with_columns(sha256=pl.Series(["a", "b", "c"]))
    with whole_folder(tmp_path / "posts") as folder:
        write_frame(folder / "posts-00003.parquet", frame)
        write_manifest(folder, "rows")
    for name in ("scores", "again"):
        write_scores(tmp_path / name, tmp_path / "posts")
    assert annotated_kinds(tmp_path / "scores") == ["aesthetic", "quality"]
    refuse_other_pictures(tmp_path / "scores", [tmp_path / "posts" / "posts-00003.parquet"])
    found = read_annotations(tmp_path / "scores", "aesthetic", 3, frame["id"].reverse(), ["score"])
    assert found["score"].to_list() == pytest.approx([0.95, 0.60, 0.0])
    assert folder_bytes(tmp_path / "scores") == folder_bytes(tmp_path / "again")
