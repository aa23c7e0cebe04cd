"""Which files of a model's folder are read, and that they are the right ones."""

import hashlib
import json
import shutil
from pathlib import Path

from repro.errors import StageError
from repro.params import Annotate, load_params

import pytest
import torch
from safetensors.torch import load_file
from tiny_taggers import annotate_settings, write_taggers
from transformers import ViTForImageClassification

from tagging.model_files import ModelFolder, asked_folders, load_pretrained, shard_names

HUB = {"repo": "someone/model", "revision": "0" * 40, "path": ""}
FILES = {
    "annotate.tags": ["model.onnx", "selected_tags.csv"],
    "annotate.aesthetic": ["config.json", "preprocessor_config.json", "model.safetensors"],
    "annotate.quality": ["aes-B32-v0.safetensors"],
    "annotate.quality.clip": ["config.json", "preprocessor_config.json", "model.safetensors"],
    "annotate.text": [
        "config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"
    ],
}  # fmt: skip
EACH_FILE = [(key, name) for key, names in FILES.items() for name in names]
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taggers") / "models"
    write_taggers(folder)
    return folder


@pytest.fixture
def models(made: Path, tmp_path: Path) -> Path:
    """A copy of the models that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "models"))


def part_of(models: Path, key: str, **changes: object) -> ModelFolder:
    """The folder of a section, with other values for some of the section's keys."""
    settings = annotate_settings(models)
    section = settings
    for name in key.split(".")[1:]:
        section = section[name]
    section |= changes
    return next(part for part in asked_folders(Annotate.model_validate(settings)) if part.key == key)


def test_all_that_the_parameters_ask_for_is_listed(made: Path) -> None:
    asked = annotate_settings(made)
    assert [part.key for part in asked_folders(Annotate.model_validate(asked))] == list(FILES)
    none = asked | dict.fromkeys(("tags", "aesthetic", "quality", "text"))
    assert asked_folders(Annotate.model_validate(none)) == []


@pytest.mark.parametrize("key", FILES)
def test_digests_are_those_of_the_files_that_are_read(made: Path, key: str) -> None:
    part = part_of(made, key)
    folder = made / part.source.path
    expected = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES[key]}
    assert part.digests(made) == expected
    assert part_of(made, key, sha256=expected).digests(made) == expected


@pytest.mark.parametrize(("key", "name"), EACH_FILE)
def test_another_sha256_is_refused(made: Path, key: str, name: str) -> None:
    part = part_of(made, key, sha256={name: "0" * 64})
    path = made / part.source.path / name
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(StageError) as caught:
        part.digests(made)
    assert str(caught.value).startswith(f"{path}: has sha256 {found}, but {key}.sha256 names {'0' * 64}; fetch it again")


@pytest.mark.parametrize(("key", "name"), EACH_FILE)
def test_a_missing_file_is_named_with_where_to_get_it(models: Path, key: str, name: str) -> None:
    path = models / part_of(models, key).source.path / name
    path.unlink()
    with pytest.raises(StageError) as caught:
        part_of(models, key, hub=HUB).digests(models)
    assert str(caught.value) == f"{path}: no such file; `make taggers` fetches it from someone/model"
    with pytest.raises(StageError) as caught:
        part_of(models, key).digests(models)
    assert str(caught.value) == f"{path}: no such file; put it there, or name its repository as {key}.hub for `make taggers`"


def test_a_file_that_only_the_parameters_name_is_checked_and_counts_for_nothing(models: Path) -> None:
    digest = hashlib.sha256(b"about").hexdigest()
    part = part_of(models, "annotate.aesthetic", sha256={"README.md": digest})
    with pytest.raises(StageError, match=r"README\.md: no such file"):
        part.digests(models)
    (models / "aesthetic" / "README.md").write_bytes(b"about")
    assert list(part.digests(models)) == FILES["annotate.aesthetic"]


def test_marks_of_the_tokenizer_are_read_where_they_are_there(models: Path) -> None:
    part = part_of(models, "annotate.text")
    without = part.digests(models)
    (models / "text" / "special_tokens_map.json").write_text("{}")
    digest = hashlib.sha256(b"{}").hexdigest()
    assert part.digests(models) == without | {"special_tokens_map.json": digest}


def in_shards(folder: Path) -> None:
    """Write a folder's weights as two shards with an index."""
    model = load_pretrained(ViTForImageClassification, folder, torch.float32)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="80KB")


def test_weights_in_shards_are_read_whole(made: Path, models: Path) -> None:
    in_shards(models / "aesthetic")
    shards = sorted(file.name for file in (models / "aesthetic").glob("model-*.safetensors"))
    assert len(shards) > 1
    part = part_of(models, "annotate.aesthetic")
    assert list(part.digests(models)) == ["config.json", "preprocessor_config.json", INDEX, *shards]
    loaded = load_pretrained(ViTForImageClassification, models / "aesthetic", torch.float32).state_dict()
    for name, tensor in load_file(made / "aesthetic" / "model.safetensors").items():
        assert torch.equal(loaded[name], tensor)
    (models / "aesthetic" / shards[1]).unlink()
    with pytest.raises(StageError, match=f"{shards[1]}: no such file"):
        part.digests(models)


def test_weights_of_torch_save_are_read(made: Path, models: Path) -> None:
    weights = load_file(models / "aesthetic" / "model.safetensors")
    (models / "aesthetic" / "model.safetensors").unlink()
    torch.save(weights, models / "aesthetic" / "pytorch_model.bin")
    assert "pytorch_model.bin" in part_of(models, "annotate.aesthetic").digests(models)
    loaded = load_pretrained(ViTForImageClassification, models / "aesthetic", torch.float32).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items())


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "[]",
        "{}",
        '{"weight_map": []}',
        '{"weight_map": {}}',
        '{"weight_map": {"a": "../b.safetensors"}}',
        '{"weight_map": {"a": 1}}',
    ],
)
def test_an_index_that_names_no_files_of_its_folder_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(StageError, match="expected a JSON object with weight_map"):
        shard_names(tmp_path / INDEX)


def test_shards_are_named_once_each_and_sorted(tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": "2.safetensors", "b": "1.safetensors", "c": "2.safetensors"}}))
    assert shard_names(tmp_path / INDEX) == ["1.safetensors", "2.safetensors"]


def test_weights_that_lack_a_tensor_are_refused(models: Path) -> None:
    weights = load_file(models / "aesthetic" / "model.safetensors")
    del weights["classifier.bias"]
    (models / "aesthetic" / "model.safetensors").unlink()
    torch.save(weights, models / "aesthetic" / "pytorch_model.bin")
    with pytest.raises(StageError, match=r"aesthetic: its weights lack classifier\.bias"):
        load_pretrained(ViTForImageClassification, models / "aesthetic", torch.float32)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "config.json"])
@pytest.mark.parametrize("content", [b"", b"no model", b"{}"])
def test_broken_files_are_told_in_words(models: Path, name: str, content: bytes) -> None:
    if name == "pytorch_model.bin":
        (models / "aesthetic" / "model.safetensors").unlink()
    (models / "aesthetic" / name).write_bytes(content)
    with pytest.raises(StageError, match=f"^{models / 'aesthetic'}: ") as caught:
        load_pretrained(ViTForImageClassification, models / "aesthetic", torch.float32)
    assert "\n" not in str(caught.value)


def test_another_models_weights_are_refused(models: Path) -> None:
    shutil.copy(models / "clip" / "model.safetensors", models / "aesthetic" / "model.safetensors")
    with pytest.raises(StageError, match="aesthetic: its weights lack "):
        load_pretrained(ViTForImageClassification, models / "aesthetic", torch.float32)


@pytest.mark.parametrize("named", ["pytorch_model.bin", "model-00001-of-00002.safetensors"])
def test_weights_that_the_parameters_name_are_not_passed_over_for_others(models: Path, named: str) -> None:
    """transformers takes model.safetensors where it is there, whatever lies beside it."""
    folder = models / "aesthetic"
    (folder / named).write_bytes(b"the weights that are meant")
    digest = hashlib.sha256((folder / named).read_bytes()).hexdigest()
    part = part_of(models, "annotate.aesthetic", sha256={named: digest})
    with pytest.raises(StageError) as caught:
        part.digests(models)
    text = f"{folder}/model.safetensors: these weights would be read, but annotate.aesthetic.sha256 names {named}; remove"
    assert str(caught.value).startswith(text)
    (folder / "model.safetensors").unlink()
    if named == "pytorch_model.bin":
        assert part.digests(models)[named] == digest


@pytest.mark.parametrize("recipe", ["sample", "sample-cascade"])
def test_the_files_of_the_sample_recipes_models_are_there(recipe: str) -> None:
    annotate = load_params(Path("recipes", f"{recipe}.yaml")).annotate
    for part in asked_folders(annotate):
        assert set(part.files) <= set(part.digests(Path(annotate.folder)))
