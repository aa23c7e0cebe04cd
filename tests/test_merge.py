import hashlib
import json
import subprocess
import sys
from pathlib import Path

from repro import numerics

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from lycoris_lokr import write_lycoris_lokr
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_sdxl import write_small_sdxl

OUTPUTS = ("models/small.safetensors", "models/small", "reports/merge.json")
OFFLINE = {"local_files_only": True, "torch_dtype": torch.float32}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_sdxl(tmp_path_factory.mktemp("models") / "base", seed=1)


@pytest.fixture(scope="module")
def trained(base: Path) -> tuple[Path, StableDiffusionXLPipeline]:
    """A LoKr file, and a pipeline in which LyCORIS' own network of it is live."""
    numerics.fix_torch()
    pipeline = StableDiffusionXLPipeline.from_pretrained(base, **OFFLINE)
    path = base.parent / "lokr.safetensors"
    write_lycoris_lokr(pipeline, path, seed=2)
    return path, pipeline


@pytest.fixture(scope="module")
def merged(base: Path, trained: tuple[Path, StableDiffusionXLPipeline], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("merged")
    result = merge(base, trained[0], folder)
    assert result.returncode == 0, result.stderr
    return folder


def merge(base: Path, lokr: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    single_file, diffusers, report = (str(folder / output) for output in OUTPUTS)
    command = [sys.executable, "stages/merge.py", "--base", str(base), "--lokr", str(lokr)]
    command += ["--single-file", single_file, "--diffusers", diffusers, "--report", report, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def picture(pipeline: StableDiffusionXLPipeline) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    draw = torch.Generator().manual_seed(5)
    return pipeline("a girl, blue hair", width=32, height=48, num_inference_steps=3, generator=draw, output_type="np").images[0]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_both_layouts_give_the_same_picture_bytes_offline(base: Path, merged: Path) -> None:
    single_file, folder = (merged / output for output in OUTPUTS[:2])
    from_folder = picture(StableDiffusionXLPipeline.from_pretrained(folder, **OFFLINE))
    from_file = picture(StableDiffusionXLPipeline.from_single_file(str(single_file), config=str(folder), **OFFLINE))
    assert from_folder.tobytes() == from_file.tobytes()
    assert from_folder.std() > 0.01
    of_base = picture(StableDiffusionXLPipeline.from_pretrained(base, **OFFLINE))
    assert np.abs(of_base - from_folder).max() > 0.1


@pytest.mark.parametrize("precision, tolerance", [("fp32", 2e-5), ("fp16", 2e-2)])
def test_merged_model_answers_like_live_lycoris(
    base: Path, trained: tuple[Path, StableDiffusionXLPipeline], tmp_path: Path, precision: str, tolerance: float
) -> None:
    path, live = trained
    assert merge(base, path, tmp_path, "--set", f"merge.precision={precision}").returncode == 0
    merged = StableDiffusionXLPipeline.from_pretrained(tmp_path / OUTPUTS[1], **OFFLINE)
    before = StableDiffusionXLPipeline.from_pretrained(base, **OFFLINE)
    answers = [unet_and_text(pipeline) for pipeline in (live, merged, before)]
    for of_live, of_merged, of_base in zip(*answers, strict=True):
        assert (of_live - of_merged).abs().max() < tolerance
        assert (of_live - of_base).abs().max() > 0.1


@torch.no_grad()
def unet_and_text(pipeline: StableDiffusionXLPipeline) -> tuple[torch.Tensor, ...]:
    text, _, pooled, _ = pipeline.encode_prompt("1girl, solo", device="cpu", do_classifier_free_guidance=False)
    noise = torch.rand(1, 4, 16, 12, generator=torch.Generator().manual_seed(3))
    sizes = torch.tensor([[64.0, 48, 0, 0, 64, 48]])
    unet = pipeline.unet(noise, 500, text, added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes}).sample
    return unet, text, pooled


def test_second_run_elsewhere_gives_the_same_bytes(
    base: Path, trained: tuple[Path, StableDiffusionXLPipeline], merged: Path, tmp_path: Path
) -> None:
    assert merge(base, trained[0], tmp_path / "another place").returncode == 0
    assert tree(tmp_path / "another place") == tree(merged)


def test_report_names_the_bytes_and_what_changed(
    base: Path, trained: tuple[Path, StableDiffusionXLPipeline], merged: Path
) -> None:
    report = json.loads((merged / OUTPUTS[2]).read_text())
    data = (merged / OUTPUTS[0]).read_bytes()
    after_header = data[8 + int.from_bytes(data[:8], "little") :]
    digest = hashlib.sha256(data).hexdigest()
    with safe_open(merged / OUTPUTS[0], "pt") as file:
        metadata = file.metadata()
    assert report["single_file"]["sha256"] == digest
    assert report["single_file"]["autov2"] == digest[:10]
    assert report["single_file"]["data_sha256"] == hashlib.sha256(after_header).hexdigest()
    assert metadata["modelspec.hash_sha256"] == "0x" + hashlib.sha256(after_header).hexdigest()
    assert metadata["modelspec.resolution"] == "64x64"
    assert report["inputs"]["sha256"]["trained"] == hashlib.sha256(trained[0].read_bytes()).hexdigest()
    modules = {name.split(".")[0] for name in load_file(trained[0])}
    components = report["components"]
    for component, prefix in (("unet", "lora_unet_"), ("text_encoder", "lora_te1_"), ("text_encoder_2", "lora_te2_")):
        assert components[component]["lokr_modules"] == sum(name.startswith(prefix) for name in modules)
    assert components["unet"]["changed"] == components["unet"]["lokr_modules"]
    in_proj_shared_by_three = 2 * 3
    assert components["text_encoder_2"]["changed"] == components["text_encoder_2"]["lokr_modules"] - in_proj_shared_by_three
    assert components["vae"] == {"tensors": 152, "lokr_modules": 0, "changed": 0}
    assert sum(part["tensors"] for part in components.values()) == report["single_file"]["tensors"]


def test_untouched_files_are_the_bases(base: Path, merged: Path) -> None:
    ours, theirs = tree(merged / OUTPUTS[1]), tree(base)
    assert set(ours) == set(theirs) | {"MANIFEST.json"}
    for name in (n for n in theirs if n.startswith("tokenizer")):
        assert ours[name] == theirs[name]
    for name in (n for n in theirs if n.endswith("config.json") and not n.startswith("tokenizer")):
        assert json.loads(ours[name]) == json.loads(theirs[name])
    vae = "vae/diffusion_pytorch_model.safetensors"
    before, after = load_file(base / vae), load_file(merged / OUTPUTS[1] / vae)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_a_bad_lokr_stops_in_words_and_writes_nothing(
    base: Path, trained: tuple[Path, StableDiffusionXLPipeline], tmp_path: Path
) -> None:
    tensors = load_file(trained[0])
    name = next(key for key in tensors if key.endswith("lokr_w2") and key.startswith("lora_te1"))
    tensors[name][0, 0] = float("nan")
    save_file(tensors, tmp_path / "lokr.safetensors")
    result = merge(base, tmp_path / "lokr.safetensors", tmp_path)
    assert result.returncode == 2
    assert name in result.stderr and "lokr.safetensors" in result.stderr and "Traceback" not in result.stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["lokr.safetensors"]


def test_help_explains_the_stage() -> None:
    result = subprocess.run([sys.executable, "stages/merge.py", "--help"], capture_output=True, text=True)
    assert result.returncode == 0 and "--single-file" in result.stdout and "from_single_file" in result.stdout
