"""make_sample_cascade.py refuses what it cannot make, and its posts get the scorers' words; making it is `make sample-models`."""

from pathlib import Path

from repro.errors import StageError

import polars as pl
import pytest
from tiny_annotations import kept_posts, write_kept

from make_sample_base import caption_posts
from make_sample_cascade import main, score_posts

FILE = Path("recipes/sample-cascade-base.yaml")
RECIPE = ("--params", str(FILE))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--params", "recipes/sample-base.yaml"), "family sdxl, train.method full, updates 5600; a Stable Cascade from nothing"),
        (("--params", "recipes/sotediffusion-base.yaml"), "family cascade, train.method full, updates None"),
        ((*RECIPE, "--set", "train.updates=3"), "edit that"),
        ((*RECIPE, "--text-encoder", "tests"), "no text_encoder_2 in it"),
    ],
)
def test_refusals(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(StageError, match=words):
        main([*arguments, "--output", str(tmp_path / "base")])


def test_captions_have_the_words_of_the_scores(tmp_path: Path) -> None:
    write_kept(tmp_path, kept_posts([5, 6], fav_count=40))
    score_posts(tmp_path)
    caption_posts(tmp_path, FILE, annotations=tmp_path / "scores")
    words = pl.read_parquet(tmp_path / "captions" / "words.parquet")["word"]
    assert {"extremely aesthetic", "best quality"} <= set(words)
