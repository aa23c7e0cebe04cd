"""make_sample_base.py refuses what it cannot make; making it is `make sample-models`."""

from pathlib import Path

from repro.errors import StageError

import pytest

from make_sample_base import main

RECIPE = ("--params", "recipes/sample-base.yaml")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--params", "params.yaml"), "train.method is lokr; a model from nothing needs full"),
        ((*RECIPE, "--set", "train.updates=3"), "edit that"),
        ((*RECIPE, "--art", "tests"), r"no bpe_simple_vocab_16e6\.txt\.gz in it"),
    ],
)
def test_refusals(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(StageError, match=words):
        main([*arguments, "--output", str(tmp_path / "base")])
