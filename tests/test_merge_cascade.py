"""merge.py for Stable Cascade: both layouts opened by the programs that they are for, LoKr, precisions, refusals."""

import json
import shutil
from pathlib import Path

from repro import numerics
from repro.errors import StageError
from repro.hashing import check_manifest
from repro.randomness import seed_for

import diffusers
import pytest
import torch
from diffusers import StableCascadeDecoderPipeline, StableCascadePriorPipeline
from diffusers.loaders.single_file_utils import convert_stable_cascade_unet_single_file_to_diffusers
from diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model import PaellaVQModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_cascade import write_small_cascade
from tiny_booru import folder_bytes, run_script
from tiny_checkpoints import same

from checkpoints.checkpoint import Checkpoint
from checkpoints.diffusers_folder import open_folder
from checkpoints.model_family import CASCADE, CASCADE_DECODER
from merge import main as merge

STAGE = "model.diffusion_model."
OFFLINE = {"local_files_only": True, "torch_dtype": torch.float32}
PRIOR = "prior/diffusion_pytorch_model.safetensors"
# LoKr module: (component, layer in it); one of each kind of place.
MODULES = {
    "lora_prior_unet_down_blocks_0_2_attention_attn_to_k": ("prior", "down_blocks.0.2.attention.to_k"),
    "lora_prior_unet_down_blocks_0_2_attention_attn_out_proj": ("prior", "down_blocks.0.2.attention.to_out.0"),
    "lora_prior_unet_up_blocks_1_0_channelwise_4": ("prior", "up_blocks.1.0.channelwise.4"),
    "lora_prior_unet_down_downscalers_1_1_blocks_0": ("prior", "down_downscalers.1.1.blocks.0"),
    "lora_prior_te_text_model_encoder_layers_1_mlp_fc1": ("text_encoder", "text_model.encoder.layers.1.mlp.fc1"),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_cascade(tmp_path_factory.mktemp("models") / "base", seed=1)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """A folder's trained components, as `<component>.<name>`."""
    files = {part: load_file(folder / part / CASCADE.weights[part]) for part in CASCADE.weights}
    return {f"{part}.{name}": tensor for part, tensors in files.items() for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def lokr(base: Path) -> Path:
    """Factor 2 and, of one module, 4."""
    shapes, tensors = {name: tensor.shape for name, tensor in weights(base).items()}, {}
    for number, (module, (component, path)) in enumerate(MODULES.items()):
        out, taken, *kernel = shapes[f"{component}.{path}.weight"]
        factor = 4 if number == 1 else 2
        for part, shape in (("w1", (factor, factor)), ("w2", (out // factor, taken // factor, *kernel))):
            draw = torch.Generator().manual_seed(seed_for(7, "lokr", module, part))
            tensors[f"{module}.lokr_{part}"] = torch.rand(shape, generator=draw) - 0.5
    path = base.with_name("lokr.safetensors")
    save_file(tensors, path)
    return path


def run(base: Path, output: Path, formula: str, *options: object, **models: Path) -> Path:
    named = {"base": base, **models}
    words = [word for name, path in named.items() for word in ("--model", f"{name}={path}")]
    merge(["--formula", formula, *words, "--out", str(output), *map(str, options)])
    return output


@pytest.fixture(scope="module")
def merged(base: Path, lokr: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of outputs of the pipeline's merge: a process with the first sample's formula."""
    folder = tmp_path_factory.mktemp("merged")
    result = run_script(
        "merge.py", "--params", "recipes/sample-cascade.yaml", "--set", "models.files={}", "--dtype", "fp32",
        "--set", "merge.formula=lokr(base, trained, 1.0)", "--model", f"base={base}", "--model", f"trained={lokr}",
        "--out", folder / "small.safetensors", "--layout", "both", "--report", folder / "merge.json",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="module")
def pipelines(merged: Path) -> tuple[StableCascadePriorPipeline, StableCascadeDecoderPipeline]:
    numerics.fix_torch()
    diffusers.PaellaVQModel = PaellaVQModel  # diffusers moved the class away and its own saved folders still name it
    pair = (
        StableCascadePriorPipeline.from_pretrained(merged / "small", **OFFLINE),
        StableCascadeDecoderPipeline.from_pretrained(merged / "small" / "decoder", **OFFLINE),
    )
    for pipeline in pair:
        pipeline.set_progress_bar_config(disable=True)
    return pair


def test_diffusers_draws_with_the_folder(pipelines: tuple[StableCascadePriorPipeline, StableCascadeDecoderPipeline]) -> None:
    prior, decoder = pipelines
    draw = torch.Generator().manual_seed(5)
    latents = prior("a girl", width=64, height=64, num_inference_steps=2, generator=draw).image_embeddings
    assert latents.shape == (1, 4, 6, 6) and latents.std() > 0.1
    drawn = decoder(latents, "a girl", num_inference_steps=2, guidance_scale=0.0, generator=draw, output_type="np").images[0]
    assert drawn.shape == (64, 64, 3) and drawn.std() > 0.01


def test_lokr_changes_its_layers_by_the_product_of_its_factors_and_nothing_else(base: Path, lokr: Path, merged: Path) -> None:
    before, after, factors = weights(base), weights(merged / "small"), load_file(lokr)
    assert before.keys() == after.keys()
    changed = {f"{component}.{path}.weight": module for module, (component, path) in MODULES.items()}
    for name, tensor in before.items():
        if name not in changed:
            assert torch.equal(after[name], tensor), name
            continue
        w1, w2 = (factors[f"{changed[name]}.lokr_{part}"] for part in ("w1", "w2"))
        delta = torch.kron(w1.view(*w1.shape, *[1] * (w2.ndim - 2)), w2)
        assert torch.equal(after[name], tensor + delta)


def test_the_single_file_and_the_folder_hold_the_same(
    merged: Path, pipelines: tuple[StableCascadePriorPipeline, StableCascadeDecoderPipeline]
) -> None:
    tensors = load_file(merged / "small.safetensors")
    stage = {name.removeprefix(STAGE): tensor for name, tensor in tensors.items() if name.startswith(STAGE)}
    assert same(convert_stable_cascade_unet_single_file_to_diffusers(stage), pipelines[0].prior.state_dict())
    text = "text_encoder.clip_g.transformer."
    ours = {name.removeprefix(text): tensor for name, tensor in tensors.items() if name.startswith(text)}
    assert same(ours, pipelines[0].text_encoder.state_dict())
    encoder = {name.removeprefix("vae.encoder."): t for name, t in tensors.items() if name.startswith("vae.encoder.")}
    assert same(encoder, load_file(merged / "small" / "effnet" / "model.safetensors"))


def test_the_decoder_passes_through_and_stands_beside_for_comfyui(
    base: Path, merged: Path, pipelines: tuple[StableCascadePriorPipeline, StableCascadeDecoderPipeline]
) -> None:
    assert folder_bytes(merged / "small" / "decoder") == folder_bytes(base / "decoder")
    check_manifest(merged / "small")
    path = merged / "small" / "comfyui-decoder.safetensors"
    tensors = load_file(path)
    decoder = Checkpoint(open_folder(base / "decoder", (CASCADE_DECODER,)))
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {n: s.shape for n, s in decoder.specs.items()}
    stage = {name.removeprefix(STAGE): tensor for name, tensor in tensors.items() if name.startswith(STAGE)}
    assert same(convert_stable_cascade_unet_single_file_to_diffusers(stage), pipelines[1].decoder.state_dict())
    vqgan = {name.removeprefix("vae."): tensor for name, tensor in tensors.items() if name.startswith("vae.")}
    vqgan["vquantizer.embedding.weight"] = vqgan.pop("vquantizer.codebook.weight")
    assert same(vqgan, load_file(base / "decoder" / "vqgan" / "diffusion_pytorch_model.safetensors"))
    with safe_open(path, "pt") as file:
        assert file.metadata()["modelspec.architecture"] == "stable-cascade-v1-stage-b"


def test_header_and_report(merged: Path) -> None:
    with safe_open(merged / "small.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["modelspec.architecture"] == "stable-cascade-v1-stage-c"
    assert metadata["modelspec.prediction_type"] == "epsilon"
    assert metadata["modelspec.resolution"] == "1024x1024"
    assert metadata["modelspec.implementation"] == "https://github.com/Stability-AI/StableCascade"
    report = json.loads((merged / "merge.json").read_text())
    of_file = load_file(merged / "small.safetensors")
    counted = {part: sum(name.startswith(prefix) for name in of_file) for part, prefix in CASCADE.single_file_prefix.items()}
    assert report["components"] == {
        "text_encoder": {"tensors": counted["text_encoder"], "lokr_modules": 1, "changed": 1},
        "prior": {"tensors": counted["prior"], "lokr_modules": 4, "changed": 4},
        "effnet": {"tensors": counted["effnet"], "lokr_modules": 0, "changed": 0},
    }


def test_the_same_bytes_again_and_from_the_single_file(base: Path, lokr: Path, merged: Path, tmp_path: Path) -> None:
    formula = "lokr(base, trained, 1.0)"
    again = run(base, tmp_path / "again.safetensors", formula, "--layout", "both", "--dtype", "fp32", trained=lokr)
    assert folder_bytes(again.with_suffix("")) == folder_bytes(merged / "small")
    folder = run(
        merged / "small.safetensors", tmp_path / "back", "base", "--layout", "diffusers", "--dtype", "fp32", "--configs", base
    )
    assert folder_bytes(folder) == folder_bytes(merged / "small")


def test_a_formula_over_two_models(base: Path, tmp_path: Path) -> None:
    other = write_small_cascade(tmp_path / "other", seed=9)
    path = run(base, tmp_path / "sum.safetensors", "0.75 * base + 0.25 * other", "--dtype", "bf16", other=other)
    a, b = weights(base), weights(other)
    name = "down_blocks.1.0.channelwise.0.weight"
    expected = (0.75 * a[f"prior.{name}"] + 0.25 * b[f"prior.{name}"]).bfloat16()
    assert torch.equal(load_file(path)[STAGE + name], expected)


def test_fp8_for_linear_and_convolution_layers_alone(base: Path, tmp_path: Path) -> None:
    path = run(base, tmp_path / "small.safetensors", "base", "--dtype", "fp8", "--fp8-tensors", "linear-and-conv")
    dtypes = {name: tensor.dtype for name, tensor in load_file(path).items()}
    block = f"{STAGE}down_blocks.0."
    assert dtypes[f"{block}0.channelwise.0.weight"] == dtypes[f"{block}0.depthwise.weight"] == torch.float8_e4m3fn
    halves = ("0.channelwise.2.gamma", "0.channelwise.2.beta", "0.channelwise.0.bias", "2.attention.attn.in_proj_weight")
    assert {dtypes[block + name] for name in halves} == {torch.float16}
    assert dtypes["text_encoder.clip_g.transformer.text_model.embeddings.token_embedding.weight"] == torch.float16
    assert dtypes["vae.encoder.backbone.0.1.num_batches_tracked"] == torch.int64


def test_the_image_encoder_stays_fp16_in_fp8(base: Path, tmp_path: Path) -> None:
    """Its running variances go beyond 448, where fp8 ends."""
    large = tmp_path / "base"
    shutil.copytree(base, large)
    weights, variance = large / "effnet" / "model.safetensors", "backbone.0.1.running_var"
    tensors = load_file(weights)
    save_file(tensors | {variance: tensors[variance] * 0 + 3000}, weights)
    tensors = load_file(run(large, tmp_path / "small.safetensors", "base", "--dtype", "fp8"))
    assert set(tensors[f"vae.encoder.{variance}"].tolist()) == {3000.0}
    dtypes = {name.startswith("vae.encoder."): set() for name in tensors}
    for name, tensor in tensors.items():
        dtypes[name.startswith("vae.encoder.")].add(tensor.dtype)
    assert dtypes == {True: {torch.float16, torch.int64}, False: {torch.float8_e4m3fn}}


def test_a_folder_called_decoder_of_another_family_only_passes_through(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("merge.CASCADE", None)
    path = run(base, tmp_path / "model", "base", "--layout", "diffusers")
    assert folder_bytes(path / "decoder") == folder_bytes(base / "decoder")
    assert {file.suffix for file in path.iterdir()} == {"", ".json"}


def test_a_merge_to_a_folder_alone_that_changes_nothing_is_refused(base: Path, tmp_path: Path) -> None:
    """Also with what a single file has and a folder has not."""
    files = {}
    for name in ("one", "two"):
        files[name] = tmp_path / f"{name}.safetensors"
        more = {"vae.previewer.blocks.0.weight": torch.ones(4, 4)}
        save_file(load_file(run(base, files[name], "base", "--dtype", "fp32")) | more, files[name])
    with pytest.raises(StageError, match="changes no tensor of one"):
        formula = ("--formula", "0.5 * one + 0.5 * two", "--model", f"one={files['one']}", "--model", f"two={files['two']}")
        merge([*formula, "--out", str(tmp_path / "out"), "--layout", "diffusers", "--configs", str(base)])
    assert not (tmp_path / "out").exists()


def test_embeddings_are_restored(base: Path, tmp_path: Path) -> None:
    other = write_small_cascade(tmp_path / "other", seed=9)
    path = run(base, tmp_path / "a.safetensors", "restore_embeddings(base, other)", "--dtype", "fp32", other=other)
    tensors = load_file(path)
    token, mlp = "text_model.embeddings.token_embedding.weight", "text_model.encoder.layers.0.mlp.fc1.weight"
    prefix = "text_encoder.clip_g.transformer."
    assert torch.equal(tensors[prefix + token], weights(other)[f"text_encoder.{token}"])
    assert torch.equal(tensors[prefix + mlp], weights(base)[f"text_encoder.{mlp}"])


def test_explain_names_stage_c_and_what_the_lokr_changes(base: Path, lokr: Path, capsys: pytest.CaptureFixture) -> None:
    merge(["--formula", "lokr(base, t, 1)", "--model", f"base={base}", "--model", f"t={lokr}", "--explain"])
    words = capsys.readouterr().out
    assert "\n5 tensors: lokr(base, t, 1.0)\n" in words
    assert f"{STAGE}down_blocks.0.2.attention.attn.in_proj_weight F16 [96, 32]" in words


@pytest.mark.parametrize(
    "formula, words",
    [
        (f"mbw(base, other, [{', '.join(['0.5'] * 20)}])", "mbw: the 20 weights are of SDXL's blocks; Stable Cascade has none"),
        ("lokr(base, stranger, 1)", "module 'lora_unet_middle_block_1_proj_in' lands on no weight of this model"),
    ],
)
def test_what_is_sdxls_alone_is_refused(base: Path, tmp_path: Path, formula: str, words: str) -> None:
    stranger = tmp_path / "stranger.safetensors"
    save_file({f"lora_unet_middle_block_1_proj_in.lokr_{part}": torch.ones(2, 2) for part in ("w1", "w2")}, stranger)
    models = {name: path for name, path in {"other": base, "stranger": stranger}.items() if name in formula}
    with pytest.raises(StageError, match=words):
        run(base, tmp_path / "a.safetensors", formula, **models)
    assert not (tmp_path / "a.safetensors").exists()
