"""make_base.py as a process: canonical bytes, and the folders it refuses."""

import json
import shutil
from pathlib import Path

from repro.hashing import check_manifest

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_sdxl import write_small_sdxl
from tiny_booru import folder_bytes, refusal, run_script

from families.sdxl import load
from make_base import ADD_PARTS, main

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_sdxl(tmp_path_factory.mktemp("model") / "model", seed=2)


def formula(model: Path) -> tuple[str, ...]:
    return "--formula", "m", "--model", f"m={model}"


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
        result = run_script("make_base.py", *formula(source), "--output", tmp_path / output)
        assert result.returncode == 0, result.stderr
    check_manifest(tmp_path / "one")
    assert folder_bytes(tmp_path / "one") == folder_bytes(tmp_path / "two")
    StableDiffusionXLPipeline.from_pretrained(tmp_path / "one", local_files_only=True, torch_dtype=torch.float32)


def change_weight(folder: Path, value: float) -> None:
    tensors = {name: tensor.float() for name, tensor in load_file(folder / WEIGHTS).items()}
    tensors["conv_in.bias"][0] = value
    save_file(tensors, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (float("nan"), "tensor 'model.diffusion_model.input_blocks.0.0.bias' holds NaN or inf"),
        (1e5, "tensor 'model.diffusion_model.input_blocks.0.0.bias': the formula gives numbers too large for F16"),
    ],
)
def test_weights_that_cannot_be_used(copy: Path, tmp_path: Path, value: float, words: str) -> None:
    change_weight(copy, value)
    assert words in refusal("make_base.py", *formula(copy), "--output", tmp_path / "base")
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize("missing", ["model_index.json", WEIGHTS, "text_encoder_2/config.json", "tokenizer_2/vocab.json"])
def test_missing_files(copy: Path, tmp_path: Path, missing: str) -> None:
    (copy / missing).unlink()
    assert str(copy / missing) in refusal("make_base.py", *formula(copy), "--output", tmp_path / "base")


def test_a_family_of_which_nobody_says_what_the_formula_lacks(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(ADD_PARTS, "SDXL")
    with pytest.raises(KeyError, match="SDXL"):
        main([*formula(model), "--output", str(tmp_path / "base")])
    assert not (tmp_path / "base").exists()


def test_another_pipeline(copy: Path, tmp_path: Path) -> None:
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps(index | {"_class_name": "StableDiffusionPipeline"}))
    assert "says StableDiffusionPipeline" in refusal("make_base.py", *formula(copy), "--output", tmp_path / "base")


def test_base_of_delta(model: Path, tmp_path: Path) -> None:
    """Half of two models, both with a third one's embeddings; the third in float32."""
    other, original = tmp_path / "other.safetensors", tmp_path / "original.safetensors"
    for seed, target, dtype in ((3, other, "fp16"), (4, original, "fp32")):
        folder = write_small_sdxl(tmp_path / f"model{seed}", seed=seed)
        assert run_script("merge.py", *formula(folder), "--out", target, "--dtype", dtype).returncode == 0
    text = "0.5 * restore_embeddings(gamma, sdxl) + 0.5 * restore_embeddings(beta, sdxl)"
    models = ("--model", f"gamma={model}", "--model", f"beta={other}", "--model", f"sdxl={original}")
    result = run_script("make_base.py", "--formula", text, *models, "--output", tmp_path / "base")
    assert result.returncode == 0, result.stderr
    a, made = (load_file(folder / WEIGHTS) for folder in (model, tmp_path / "base"))
    theirs = load_file(other)
    b = theirs["model.diffusion_model.input_blocks.0.0.weight"]
    assert torch.equal(made["conv_in.weight"], (0.5 * a["conv_in.weight"].float() + 0.5 * b.float()).half())
    tokens = load_file(original)["conditioner.embedders.1.model.token_embedding.weight"]
    text_encoder = load_file(tmp_path / "base" / "text_encoder_2" / "model.safetensors")
    assert torch.equal(text_encoder["text_model.embeddings.token_embedding.weight"], tokens.half())


def test_a_merge_formula_that_cannot_work_is_told_before_training(tmp_path: Path) -> None:
    words = refusal("make_base.py", "--set", "merge.formula=lokr(base, traind, 1.0)", "--output", tmp_path / "base")
    assert words.strip() == "^"
    assert not (tmp_path / "base").exists()


def test_configs_of_a_listed_folder(model: Path, tmp_path: Path) -> None:
    single = tmp_path / "models" / "single.safetensors"
    shutil.copytree(model, tmp_path / "models" / "folder")
    assert run_script("merge.py", *formula(model), "--out", single).returncode == 0
    listed = ("--set", f"models.folder={tmp_path / 'models'}", "--set", "models.files={m: single.safetensors, sdxl: folder}")
    result = run_script("make_base.py", *listed, "--set", "base.formula=m", "--output", tmp_path / "base")
    assert result.returncode == 0, result.stderr
    ours, theirs = (load_file(folder / WEIGHTS) for folder in (tmp_path / "base", model))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def scheduler_config(folder: Path) -> dict:
    return json.loads((folder / "scheduler" / "scheduler_config.json").read_text())


def listed(model: Path, *settings: str) -> list[str]:
    values = (f"models.folder={model.parent}", f"models.files={{m: {model.name}}}", "base.formula=m", *settings)
    return [word for value in values for word in ("--set", value)]


def test_without_prediction_and_schedule_the_models_config_stays(model: Path, tmp_path: Path) -> None:
    assert run_script("make_base.py", *listed(model), "--output", tmp_path / "base").returncode == 0
    kept = {key: value for key, value in scheduler_config(model).items() if key != "_name_or_path"}
    assert scheduler_config(tmp_path / "base") == kept


def test_prediction_and_schedule_go_from_base_to_single_file_and_back(model: Path, tmp_path: Path) -> None:
    base, single, back = tmp_path / "base", tmp_path / "single.safetensors", tmp_path / "back"
    asked = ("base.prediction=v_prediction", "base.zero_terminal_snr=true")
    assert run_script("make_base.py", *listed(model, *asked), "--output", base).returncode == 0
    written = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    assert scheduler_config(base) == scheduler_config(model) | written
    loaded = load(base)
    assert (loaded.prediction, loaded.zero_terminal_snr) == ("v_prediction", True)

    result = run_script("merge.py", *formula(base), "--out", single, "--layout", "both")
    assert result.returncode == 0, result.stderr
    with safe_open(single, "pt") as file:
        assert file.metadata()["modelspec.prediction_type"] == "v"
        assert {"v_pred", "ztsnr"} <= set(file.keys())
    assert scheduler_config(tmp_path / "single") == scheduler_config(base)
    pipeline = StableDiffusionXLPipeline.from_single_file(
        str(single), config=str(base), local_files_only=True, torch_dtype=torch.float32
    )
    assert torch.equal(pipeline.unet.conv_in.weight, loaded.unet.conv_in.weight)

    # Here the configs are those of the untouched model: the file's markers say what it predicts.
    result = run_script("make_base.py", *formula(single), "--configs", model, "--output", back)
    assert result.returncode == 0, result.stderr
    assert scheduler_config(back) == scheduler_config(base)
    assert folder_bytes(back / "unet") == folder_bytes(base / "unet")


def test_a_zero_terminal_model_that_predicts_noise_is_refused(model: Path, tmp_path: Path) -> None:
    words = refusal("make_base.py", *listed(model, "base.zero_terminal_snr=true"), "--output", tmp_path / "base")
    assert "base.zero_terminal_snr with prediction epsilon" in words
    assert not (tmp_path / "base").exists()
