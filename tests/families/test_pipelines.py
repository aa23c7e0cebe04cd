"""Which family a folder is of."""

import json
from pathlib import Path

from repro.errors import StageError

import pytest

from families.pipelines import INDEX, PIPELINES, refuse_other_family


@pytest.mark.parametrize("family", PIPELINES)
def test_a_folder_of_the_family_is_taken_and_of_another_refused(family: str, training_inputs: Path, cascade_inputs: Path) -> None:
    own, other = (training_inputs, cascade_inputs) if family == "sdxl" else (cascade_inputs, training_inputs)
    refuse_other_family(own / "base", family)
    with pytest.raises(StageError, match=rf"base/model_index\.json: a Stable\w+Pipeline, but family is {family}: give a Stable"):
        refuse_other_family(other / "base", family)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, r"model: no model_index\.json; expected a diffusers folder"),
        ("{", r"model_index\.json: cannot be read as a pipeline's index"),
        ("[]", r"model_index\.json: cannot be read as a pipeline's index"),
        (json.dumps({}), r"model_index\.json: a None, but family is sdxl"),
    ],
)
def test_an_index_that_says_nothing_is_named(tmp_path: Path, content: str | None, words: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    if content is not None:
        (folder / INDEX).write_text(content)
    with pytest.raises(StageError, match=words):
        refuse_other_family(folder, "sdxl")
