import hashlib
import json
import re
import shlex
import signal
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
from tiny_booru import folder_bytes, refusal, run_script
from tiny_checkpoints import IDS, TIME, tiny_tensors, write, write_models, write_tiny_models

OUTPUTS = ("models/small.safetensors", "models/small", "reports/merge.json")
README = Path("README.md")
REV1 = "beta7 + 0.8 * (anxl3 - anxl2) + 0.5 * (base7 - beta7)"
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


def merge(base: Path, lokr: Path, folder: Path, *options: object) -> subprocess.CompletedProcess[str]:
    """As the pipeline calls it, with the formula of params.yaml."""
    single_file, _, report = (folder / output for output in OUTPUTS)
    return run_script(
        "merge.py", "--model", f"base={base}", "--model", f"trained={lokr}",
        "--out", single_file, "--layout", "both", "--report", report, *options,
    )  # fmt: skip


def models(files: dict[str, Path]) -> list[str]:
    return [word for name, path in files.items() for word in ("--model", f"{name}={path}")]


def picture(pipeline: StableDiffusionXLPipeline) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    draw = torch.Generator().manual_seed(5)
    return pipeline("a girl, blue hair", width=32, height=48, num_inference_steps=3, generator=draw, output_type="np").images[0]


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
    assert merge(base, path, tmp_path, "--set", f"merge.dtype={precision}").returncode == 0
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
    assert folder_bytes(tmp_path / "another place") == folder_bytes(merged)


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
    assert metadata["modelspec.resolution"] == "64x64" and metadata["modelspec.title"] == "Sample XL"
    recipe = json.loads(metadata["merge_recipe"])
    assert recipe["formula"] == report["formula"] == "lokr(base, trained, 1.0)"
    assert recipe["models"] == report["inputs"]["sha256"]
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
    ours, theirs = folder_bytes(merged / OUTPUTS[1]), folder_bytes(base)
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
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["lokr.safetensors"]


@pytest.fixture
def tiny(tmp_path: Path) -> dict[str, Path]:
    return write_tiny_models(tmp_path, ("beta7", "anxl3", "anxl2", "base7"))


def test_formula_of_the_command_line_is_the_program(tiny: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "gamma_rev1.safetensors"
    result = run_script("merge.py", "--formula", REV1, *models(tiny), "--out", out)
    assert result.returncode == 0, result.stderr
    a, c, d, b = (load_file(tiny[name]) for name in ("beta7", "anxl3", "anxl2", "base7"))
    for name, tensor in load_file(out).items():
        if name != IDS:
            x3, x2, b7, be = (m[name].float() for m in (c, d, b, a))
            assert torch.equal(tensor, (be + 0.8 * (x3 - x2) + 0.5 * (b7 - be)).half()), name
    digest = hashlib.sha256(out.read_bytes()).hexdigest()
    assert f"sha256: {digest}\nautov2: {digest[:10]}\ndata_sha256: " in result.stdout
    with safe_open(out, "pt") as file:
        metadata = file.metadata()
    assert metadata["modelspec.title"] == REV1 and "modelspec.author" not in metadata
    assert metadata["modelspec.merged_from"] == "beta7, anxl3, anxl2, base7"
    hashes = json.loads(metadata["merge_recipe"])["models"]
    assert hashes == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in tiny.items()}
    assert str(tmp_path) not in json.dumps(metadata)


def test_the_readmes_command_runs(tmp_path: Path) -> None:
    command = re.search(
        r"^python (stages/merge\.py .*=models/\S+ --out )sample-base\.safetensors$", README.read_text(), re.MULTILINE
    )
    out = tmp_path / "sample-base.safetensors"
    subprocess.run([sys.executable, *shlex.split(command[1]), str(out)], check=True, capture_output=True)
    with safe_open(out, "pt") as file:
        assert len(list(file.keys())) == 458


@pytest.mark.parametrize("dtype, stored", [("fp16", "F16"), ("bf16", "BF16"), ("fp32", "F32"), ("fp8", "F8_E4M3")])
def test_every_precision(tiny: dict[str, Path], tmp_path: Path, dtype: str, stored: str) -> None:
    out = tmp_path / "out.safetensors"
    result = run_script("merge.py", "--formula", REV1, *models(tiny), "--out", out, "--dtype", dtype)
    assert result.returncode == 0, result.stderr
    with safe_open(out, "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {stored, "I64"}  # noqa: SIM118


@pytest.mark.parametrize("tensors", ["all", "linear-and-conv"])
def test_fp8_opens_in_diffusers_from_both_layouts(base: Path, tmp_path: Path, tensors: str) -> None:
    single, folder = tmp_path / "m.safetensors", tmp_path / "m"
    fp8 = ("--dtype", "fp8", "--fp8-tensors", tensors)
    result = run_script("merge.py", "--formula", "m", "--model", f"m={base}", "--out", single, "--layout", "both", *fp8)
    assert result.returncode == 0, result.stderr
    from_folder = StableDiffusionXLPipeline.from_pretrained(folder, **OFFLINE).to(torch.float32)
    from_file = StableDiffusionXLPipeline.from_single_file(str(single), config=str(folder), **OFFLINE)
    assert picture(from_folder).tobytes() == picture(from_file).tobytes()
    bias = load_file(single)[TIME.replace("weight", "bias")]
    assert bias.dtype == (torch.float8_e4m3fn if tensors == "all" else torch.float16)


def test_explain_computes_nothing(tiny: dict[str, Path], tmp_path: Path) -> None:
    weights = ", ".join(str(n / 100) for n in range(20))
    before = sorted(tmp_path.iterdir())
    result = run_script(
        "merge.py", "--formula", f"mbw(beta7, anxl3, [{weights}])", *models({n: tiny[n] for n in ("beta7", "anxl3")}), "--explain"
    )
    assert result.returncode == 0, result.stderr
    assert ": beta7\n" in result.stdout and f"    {TIME} F16 [10, 6], BASE 0\n" in result.stdout
    assert sorted(tmp_path.iterdir()) == before


def test_layouts_there_and_back_are_the_identity(base: Path, tmp_path: Path) -> None:
    single, folder, again = tmp_path / "m.safetensors", tmp_path / "folder", tmp_path / "again.safetensors"
    for source, out, options in (
        (base, single, ()), (single, folder, ("--layout", "diffusers", "--configs", base)), (folder, again, ()),
    ):  # fmt: skip
        result = run_script("merge.py", "--formula", "m", "--model", f"m={source}", "--out", out, *options)
        assert result.returncode == 0, result.stderr
    for file in ("unet/diffusion_pytorch_model", "text_encoder/model", "text_encoder_2/model", "vae/diffusion_pytorch_model"):
        before, after = (load_file(place / f"{file}.safetensors") for place in (base, folder))
        assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    first, second = load_file(single), load_file(again)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--formula", "beta7 +"), "    beta7 +\n           ^"),
        (("--formula", "beta7 + 0.5 * x"), "no file is given for 'x'"),
        (("--formula", "beta7", "--model", "anxl3=x"), "--model anxl3: the formula names no such model"),
        (("--formula", "beta7", "--model", "beta7=x"), "--model: a name stands twice"),
        (("--formula", "beta7", "--model", "7=x"), "write it as NAME=PATH"),
        (("--formula", "beta7", "--layout", "diffusers"), "is a folder; name it without .safetensors"),
        (("--formula", "beta7", "--layout", "both"), "all models are single files; add --configs FOLDER"),
        (("--formula", "beta7 + 0 * beta7"), None),
    ],
)
def test_wrong_command_lines(tiny: dict[str, Path], tmp_path: Path, options: tuple[str, ...], words: str | None) -> None:
    command = ["merge.py", "--model", f"beta7={tiny['beta7']}", "--out", tmp_path / "out.safetensors", *options]
    result = run_script(*command)
    if words is None:  # one model is allowed to stay as it is
        assert result.returncode == 0, result.stderr
        return
    assert result.returncode == 2 and words in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "out.safetensors").exists()


def test_configs_of_another_model_are_told_before_anything_is_written(tiny: dict[str, Path], base: Path, tmp_path: Path) -> None:
    command = ("--formula", "m", "--model", f"m={tiny['beta7']}", "--layout", "both", "--configs", base)
    assert "give the configs of this model" in refusal("merge.py", *command, "--out", tmp_path / "out.safetensors")
    assert not list(tmp_path.glob("*out*"))


def test_a_folder_of_somebodys_is_not_replaced(base: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    options = ("--formula", "m", "--model", f"m={base}", "--layout", "diffusers", "--out", tmp_path / "mine")
    assert "choose another folder" in refusal("merge.py", *options)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_kill_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    big = {TIME: torch.rand(6000, 6000, generator=torch.Generator().manual_seed(1)).half()}
    files = write_models(tmp_path, {"a": big, "b": {TIME: big[TIME] + 1}})
    out = tmp_path / "out" / "merged.safetensors"
    command = ["stages/merge.py", "--formula", "a + 0.5 * (b - a)", *models(files), "--out", str(out)]
    process = subprocess.Popen([sys.executable, *command], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not out.parent.exists() or not any(path.stat().st_size for path in out.parent.iterdir()):
        assert process.poll() is None
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert [path.name for path in out.parent.iterdir()] == [".merged.safetensors.partial"]
    assert run_script(*(word.removeprefix("stages/") for word in command)).returncode == 0
    assert [path.name for path in out.parent.iterdir()] == ["merged.safetensors"]
    assert torch.equal(load_file(out)[TIME], (big[TIME].float() + 0.5 * ((big[TIME] + 1).float() - big[TIME].float())).half())


def test_a_full_disk_leaves_nothing(tiny_disk: Path, tmp_path: Path) -> None:
    model = write(tmp_path / "big.safetensors", tiny_tensors("big") | {TIME: torch.ones(300, 300)})
    text = refusal("merge.py", "--formula", "m", "--model", f"m={model}", "--out", tiny_disk / "out.safetensors")
    assert "no space left on the device" in text and not list(tiny_disk.iterdir())


def test_help_explains_the_stage() -> None:
    result = subprocess.run([sys.executable, "stages/merge.py", "--help"], capture_output=True, text=True)
    assert result.returncode == 0 and "--formula" in result.stdout and "from_single_file" in result.stdout
