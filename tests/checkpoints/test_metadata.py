import json
import re
from pathlib import Path

from repro.tensorfile import write_tensors

import torch
from safetensors import safe_open

from checkpoints.metadata import autov2, merge_recipe, modelspec
from checkpoints.model_family import SDXL

STATED = {"author": "B", "date": "2024-01-19", "license": "CC0"}


def spec_of_a_merge(**changes: object) -> dict[str, str]:
    given = {
        "family": SDXL,
        "title": "A",
        "merged_from": "base, trained",
        "resolution": 1024,
        "prediction_type": "epsilon",
        "data_sha256": "ab" * 32,
        "stated": STATED,
    }
    return modelspec(**given | changes)


def test_modelspec_states_what_a_checkpoint_must_and_what_the_recipe_says() -> None:
    assert spec_of_a_merge() == {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-xl-v1-base",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.title": "A",
        "modelspec.resolution": "1024x1024",
        "modelspec.prediction_type": "epsilon",
        "modelspec.merged_from": "base, trained",
        "modelspec.hash_sha256": "0x" + "ab" * 32,
        "modelspec.author": "B",
        "modelspec.date": "2024-01-19",
        "modelspec.license": "CC0",
    }


def test_modelspec_says_nothing_that_nobody_stated() -> None:
    assert {"modelspec.author", "modelspec.date", "modelspec.license"}.isdisjoint(spec_of_a_merge(stated={}))
    assert spec_of_a_merge().keys() - spec_of_a_merge(merged_from=None).keys() == {"modelspec.merged_from"}


def test_its_length_does_not_depend_on_the_digest() -> None:
    lengths = {len(json.dumps(spec_of_a_merge(data_sha256=digest))) for digest in ("0" * 64, "ab" * 32, "f9" * 32)}
    assert len(lengths) == 1


def test_a_files_keys_are_sorted_whatever_order_they_are_given_in(tmp_path: Path) -> None:
    metadata = spec_of_a_merge() | merge_recipe({"formula": "a"})
    files = [tmp_path / f"{n}.safetensors" for n in range(2)]
    for path, given in zip(files, (metadata, dict(reversed(metadata.items()))), strict=True):
        write_tensors(path, {"x": torch.zeros(1)}, given)
    assert files[0].read_bytes() == files[1].read_bytes()
    with safe_open(files[0], "pt") as file:
        assert file.metadata() == metadata
    keys = re.findall(rb'"(modelspec\.\w+|merge_recipe)":', files[0].read_bytes())
    assert len(keys) == len(metadata) and keys == sorted(keys)


def test_merge_recipe_is_the_same_text_in_any_order() -> None:
    one = merge_recipe({"formula": "lokr(base, trained, 1.0)", "models": {"trained": "2", "base": "1"}})
    assert one == merge_recipe({"models": {"base": "1", "trained": "2"}, "formula": "lokr(base, trained, 1.0)"})
    assert json.loads(one["merge_recipe"])["models"] == {"base": "1", "trained": "2"}


def test_autov2_is_ten_digits() -> None:
    assert autov2("31e35c80fc4829d14f90153f4c74cd59c90b779f6afe05a74cd6120b893f7e5b") == "31e35c80fc"
