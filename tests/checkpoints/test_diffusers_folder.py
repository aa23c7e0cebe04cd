import json
import shutil
from pathlib import Path

from repro.errors import StageError
from repro.hashing import check_manifest

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_sdxl import write_small_sdxl

from checkpoints.diffusers_folder import read_folder, write_folder


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_sdxl(tmp_path_factory.mktemp("models") / "base", seed=4)


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "base")


def test_read_and_write_is_the_identity_on_tensors(original: Path, tmp_path: Path) -> None:
    model = read_folder(original)
    write_folder(tmp_path / "out", model, model.models)
    again = read_folder(tmp_path / "out")
    check_manifest(tmp_path / "out")
    assert again.configs == model.configs
    for component, tensors in model.models.items():
        assert tensors.keys() == again.models[component].keys()
        assert all(torch.equal(tensor, again.models[component][name]) for name, tensor in tensors.items())
    write_folder(tmp_path / "out2", again, again.models)
    files = [sorted(p for p in (tmp_path / name).rglob("*") if p.is_file()) for name in ("out", "out2")]
    assert [a.read_bytes() for a in files[0]] == [b.read_bytes() for b in files[1]]


def test_resolution_is_the_unets_in_pixels(original: Path) -> None:
    assert read_folder(original).resolution == 64


def test_folder_names_of_another_machine_are_dropped(copy: Path, tmp_path: Path) -> None:
    config = copy / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_name_or_path": "/home/someone/model"}))
    model = read_folder(copy)
    write_folder(tmp_path / "out", model, model.models)
    assert "someone" not in (tmp_path / "out" / "unet" / "config.json").read_text()


def test_precision_stands_in_the_text_encoders_config(original: Path, tmp_path: Path) -> None:
    model = read_folder(original)
    wide = {component: {name: tensor.float() for name, tensor in t.items()} for component, t in model.models.items()}
    write_folder(tmp_path / "out", model, wide)
    assert json.loads((tmp_path / "out" / "text_encoder" / "config.json").read_text())["dtype"] == "float32"


def test_text_encoders_of_newer_and_older_transformers(copy: Path, original: Path) -> None:
    first, second = copy / "text_encoder" / "model.safetensors", copy / "text_encoder_2" / "model.safetensors"
    save_file({name.removeprefix("text_model."): tensor for name, tensor in load_file(first).items()}, first)
    save_file(load_file(second) | {"text_model.embeddings.position_ids": torch.arange(77)[None]}, second)
    for component in ("text_encoder", "text_encoder_2"):
        assert read_folder(copy).models[component].keys() == read_folder(original).models[component].keys()


def test_missing_broken_and_foreign_folders_are_named(copy: Path) -> None:
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:1000])
    with pytest.raises(StageError, match=r"vae/diffusion_pytorch_model\.safetensors: not a whole"):
        read_folder(copy)
    weights.unlink()
    with pytest.raises(StageError, match=r"vae/diffusion_pytorch_model\.safetensors: no such"):
        read_folder(copy)
    (copy / "vae" / "config.json").unlink()
    with pytest.raises(StageError, match=r"vae/config\.json: missing"):
        read_folder(copy)
    (copy / "model_index.json").write_text('{"_class_name": "StableCascadePriorPipeline"}')
    with pytest.raises(StageError, match="StableCascadePriorPipeline; expected a folder of StableDiffusionXLPipeline"):
        read_folder(copy)
    (copy / "model_index.json").write_text("{")
    with pytest.raises(StageError, match=r"model_index\.json: not valid JSON"):
        read_folder(copy)


def test_a_folder_changed_after_it_was_written_is_refused(original: Path, tmp_path: Path) -> None:
    model = read_folder(original)
    write_folder(tmp_path / "out", model, model.models)
    weights = tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(StageError, match="changed since it was written"):
        read_folder(tmp_path / "out")
