"""What --explain tells of posts that models described; tests/test_filter_posts.py has the other stages."""

import json
from dataclasses import replace
from pathlib import Path

from repro.params import Params, load_params

import polars as pl
import pytest
from tiny_annotations import PREFIX, kept_posts, tagger_row, write_annotations, write_kept
from tiny_booru import TAGS, make_metadata

import caption_posts
from booru.filtering.explain import Stages, explain
from booru.filtering.rules import KEPT
from booru.images.indexing import index_here
from booru.selection.selection import SELECTED

RECIPE = [
    'annotate.tags={"path": "wd", "hub": null, "sha256": {}, "preprocess": "kohya-2024-04", "floor": 0.1}',
    'annotate.aesthetic={"path": "shadow", "hub": null, "sha256": {}, "label": "hq"}',
    "caption.tags=annotations", "caption.profile=sotediffusion", 'caption.above={"aesthetic": 0.5, "quality": null}',
    "caption.general_threshold=0.6", "caption.character_threshold=0.5",
]  # fmt: skip
SHOWN, BLOCKED, PLAIN, UNSEEN = 1000, 2000, 3000, 4000
FOUND = {
    "tags": {
        SHOWN: tagger_row({"1girl": 0.9, "solo": 0.55, "skadi_(arknights)": 0.55, "saber_(fate)": 0.45}, "sensitive"),
        BLOCKED: tagger_row({"1girl": 0.9, "oppai_loli": 0.4}, "explicit"),
        PLAIN: tagger_row({}),
    },
    "aesthetic": {SHOWN: {"score": 0.75}, BLOCKED: {"score": 0.75}, PLAIN: {"score": 0.25}},
    "text": {SHOWN: {"answer": f"{PREFIX} Hello, world"}},
}


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    folder = tmp_path_factory.mktemp("explain")
    posts = kept_posts([SHOWN, BLOCKED, PLAIN], tags=[3])
    kept, images = write_kept(folder, posts)
    index_here(images, folder / "image_index")
    make_metadata(folder / "metadata", [*posts, *kept_posts([UNSEEN])], tags=TAGS, shard_posts=100)
    ids = [SHOWN, BLOCKED, PLAIN, UNSEEN]
    for name, reason in (("selection", SELECTED), ("ledger", KEPT)):
        pl.DataFrame({"id": ids, "reason": [reason] * len(ids)}).write_parquet(folder / f"{name}.parquet")
    annotations = write_annotations(folder / "annotations", FOUND, kept=kept)
    settings = [word for setting in RECIPE for word in ("--set", setting)]
    caption_posts.main(["--posts", str(kept), "--annotations", str(annotations), "--output", str(folder / "captions"), *settings])
    return Stages(
        folder / "metadata", folder / "image_index", folder / "selection.parquet", folder / "ledger.parquet",
        folder / "annotations", folder / "captions", folder / "latents",
    )  # fmt: skip


@pytest.fixture(scope="module")
def params() -> Params:
    return load_params(Path("recipes/sample.yaml"), [*RECIPE, f"filter.ratings={json.dumps(['general', 'sensitive'])}"])


def told(post: int, stages: Stages, params: Params) -> list[str]:
    """The lines behind the filter's."""
    lines = list(explain(post, stages, params))
    return lines[next(i for i, line in enumerate(lines) if line.startswith(("annotate:", "caption:"))) :]


def test_what_the_models_said_stands_before_the_caption_that_was_made_of_it(stages: Stages, params: Params):
    assert told(SHOWN, stages, params) == [
        "annotate: rating general 0.1000, sensitive 0.7000, questionable 0.1000, explicit 0.1000 (allowed: general, sensitive)",
        "  tags above caption's thresholds: 1girl 0.9000, skadi_(arknights) 0.5500",
        "  blocked tags: none",
        "annotate: aesthetic score 0.7500",
        f"annotate: text {PREFIX + ' Hello, world'!r}",
        'caption: aesthetic, mid, sensitive, skadi, arknights, 1girl, Hello. world"',
        "  shown 1 time an epoch",
        "latents: none yet",
    ]


def test_a_post_without_a_caption_ends_with_the_reason(stages: Stages, params: Params):
    lines = told(BLOCKED, stages, params)
    assert lines[1:3] == ["  tags above caption's thresholds: 1girl 0.9000", "  blocked tags: oppai_loli 0.4000"]
    assert lines[-1] == "caption: none, blocked tag"
    assert told(PLAIN, stages, params)[1:] == [
        "  tags above caption's thresholds: none",
        "  blocked tags: none",
        "annotate: aesthetic score 0.2500",
        "caption: none, aesthetic score too low",
    ]


def test_without_annotations_or_captions_it_says_so_or_nothing(stages: Stages, params: Params, tmp_path: Path):
    assert told(UNSEEN, stages, params) == ["caption: none yet", "latents: none yet"]
    early = replace(stages, annotations=tmp_path / "annotations", captions=tmp_path / "captions")
    assert told(SHOWN, early, params) == ["caption: none yet", "latents: none yet"]
