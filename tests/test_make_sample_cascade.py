"""make_sample_cascade.py refuses what it cannot make; making it is `make sample-models`."""

from pathlib import Path

from repro.errors import StageError

import pytest

from make_sample_cascade import main

RECIPE = ("--params", "recipes/sample-cascade-base.yaml")


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
