"""What decides the models' answers, and so where they are kept."""

from pathlib import Path

from repro.params import Annotate

import pytest
from tiny_taggers import annotate_settings, write_taggers

from booru.captioning.annotations import KINDS, TEXT
from tagging.model import CODE, COMMON_CODE, STAGES, asked_models


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_taggers(folder)
    return folder


def parts_of(models: Path, **text: object) -> dict[str, dict]:
    settings = annotate_settings(models)
    asked = Annotate.model_validate(settings | {"text": settings["text"] | text})
    return {one.kind: one.determining_parts() for one in asked_models(asked, models, "cpu")}


def test_the_readers_precision_decides_its_answers_and_no_others(models: Path):
    before, after = parts_of(models), parts_of(models, precision="fp16")
    assert [kind for kind in KINDS if before[kind] != after[kind]] == [TEXT]
    assert after[TEXT]["settings"]["precision"] == "fp16"


def test_whom_the_reader_is_asked_of_decides_no_answer(models: Path):
    assert parts_of(models, only_tags=["solo"]) == parts_of(models)


def test_all_code_that_decides_is_there():
    assert all((STAGES / path).is_file() for paths in (COMMON_CODE, *CODE.values()) for path in paths)
