"""make_base.py as a process: canonical bytes, and the folders it refuses."""

import json
import shutil
from pathlib import Path

from repro.hashing import check_manifest

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from small_sdxl import write_small_sdxl
from tiny_booru import folder_bytes, refusal, run_script

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_sdxl(tmp_path_factory.mktemp("model") / "model", seed=2)


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(model, tmp_path / "model")


def test_base_opens_and_is_the_same_from_anywhere(model: Path, copy: Path, tmp_path: Path) -> None:
    # Another precision and other folder names say nothing else.
    tensors = {name: tensor.float() for name, tensor in load_file(copy / WEIGHTS).items()}
    save_file(tensors, copy / WEIGHTS)
    config = json.loads((copy / "unet" / "config.json").read_text())
    (copy / "unet" / "config.json").write_text(json.dumps(config | {"_name_or_path": str(copy)}))
    for source, output in ((model, "one"), (copy, "two")):
        result = run_script("make_base.py", "--base-dir", source, "--output", tmp_path / output)
        assert result.returncode == 0, result.stderr
    check_manifest(tmp_path / "one")
    assert folder_bytes(tmp_path / "one") == folder_bytes(tmp_path / "two")
    StableDiffusionXLPipeline.from_pretrained(tmp_path / "one", local_files_only=True, torch_dtype=torch.float32)


def change_weight(folder: Path, value: float) -> None:
    tensors = {name: tensor.float() for name, tensor in load_file(folder / WEIGHTS).items()}
    tensors["conv_in.bias"][0] = value
    save_file(tensors, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("value", "words"), [(float("nan"), "conv_in.bias is not finite"), (1e5, "conv_in.bias is too large for fp16")]
)
def test_weights_that_cannot_be_used(copy: Path, tmp_path: Path, value: float, words: str) -> None:
    change_weight(copy, value)
    assert words in refusal("make_base.py", "--base-dir", copy, "--output", tmp_path / "base")
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize("missing", ["model_index.json", WEIGHTS, "text_encoder_2/config.json", "tokenizer_2/vocab.json"])
def test_missing_files(copy: Path, tmp_path: Path, missing: str) -> None:
    (copy / missing).unlink()
    assert str(copy / missing) in refusal("make_base.py", "--base-dir", copy, "--output", tmp_path / "base")


def test_another_pipeline(copy: Path, tmp_path: Path) -> None:
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps(index | {"_class_name": "StableDiffusionPipeline"}))
    assert "says StableDiffusionPipeline" in refusal("make_base.py", "--base-dir", copy, "--output", tmp_path / "base")
