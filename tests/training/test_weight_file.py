"""The file of trained weights: a LoKr as loaders look at it, or, of all weights, the whole model as a merge and UIs read it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from repro.errors import StageError
from repro.params import Params

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors import safe_open
from safetensors.torch import load_file
from small_cascade import write_small_cascade
from tiny_checkpoints import same_bytes
from tiny_training import family_values, job_of, sample_values

from checkpoints.checkpoint import Checkpoint
from checkpoints.diffusers_folder import read_configs
from checkpoints.layouts import write_diffusers
from checkpoints.lokr import LokrFile
from checkpoints.model_family import CASCADE, SDXL
from checkpoints.schedule import Schedule
from merge import main as merge
from training.loop import run_updates
from training.milestones import CHECKPOINTS, checkpoint_name
from training.ranks import Ranks
from training.stopping import StopRequest
from training.weight_file import LOKR_METADATA, write_weights

NO_BASE = Path("no base is read for a LoKr")
LOKR = {
    "lora_unet_a.lokr_w1": torch.tensor([[1.0, -2.0], [1 / 3, 0.0]]),
    "lora_unet_a.lokr_w2": torch.arange(6.0).view(2, 3) / 7,
}
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
OFFLINE = {"local_files_only": True, "torch_dtype": torch.float32}
CONV = "unet.conv_in.weight"
# One of each kind that changes its name or its form on the way to the single file and back.
NAMES = (
    CONV,
    "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight",
    "text_encoder.text_model.embeddings.token_embedding.weight",
    "text_encoder_2.text_model.encoder.layers.1.self_attn.k_proj.weight",
    "text_encoder_2.text_projection.weight",
)


def params(**train: object) -> Params:
    values = sample_values()
    values["train"].update(train)
    return Params.model_validate(values)


def cascade_params(**train: object) -> Params:
    values = family_values("cascade")
    values["train"].update(train)
    return Params.model_validate(values)


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """A diffusers folder's tensors as `<component>.<name>`."""
    files = {component: load_file(folder / component / file) for component, file in SDXL.weights.items()}
    return {f"{component}.{name}": tensor for component, tensors in files.items() for name, tensor in tensors.items()}


def taught(base: Path) -> dict[str, torch.Tensor]:
    """Some of the base's tensors, in float32, with other numbers that no 16-bit type holds."""
    before = tensors_of(base)
    return {name: before[name].float() * 0.9 + 1 / 3 for name in NAMES}


def back(file: Path, base: Path, folder: Path) -> dict[str, torch.Tensor]:
    """A single file's tensors by the names of a diffusers folder, to which it is converted."""
    write_diffusers(folder, Checkpoint(file), read_configs(base))
    return tensors_of(folder)


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def test_a_lokr_says_what_it_is_a_network_for(tmp_path: Path) -> None:
    write_weights(tmp_path / "lokr.safetensors", LOKR, params(file_dtype="fp16"), NO_BASE)
    metadata = metadata_of(tmp_path / "lokr.safetensors")
    assert metadata == LOKR_METADATA["sdxl"]
    assert metadata["ss_network_module"] == "lycoris.kohya"
    assert metadata["ss_base_model_version"].startswith("sdxl")
    assert json.loads(metadata["ss_network_args"]) == {"algo": "lokr", "full_matrix": "True"}


def test_a_lokrs_numbers_are_rounded_to_the_files_type_and_alpha_is_one(tmp_path: Path) -> None:
    for name, dtype in DTYPES.items():
        write_weights(tmp_path / name, LOKR, params(file_dtype=name), NO_BASE)
        tensors = load_file(tmp_path / name)
        assert all(torch.equal(tensors[key], tensor.to(dtype)) for key, tensor in LOKR.items())
        assert torch.equal(tensors["lora_unet_a.alpha"], torch.ones((), dtype=dtype))


@pytest.mark.parametrize("file_dtype", DTYPES)
def test_full_weights_are_the_base_with_the_trained_in_their_places(
    training_inputs: Path, tmp_path: Path, file_dtype: str
) -> None:
    base = training_inputs / "base"
    trained = taught(base)
    file = tmp_path / "full.safetensors"
    write_weights(file, trained, params(method="full", file_dtype=file_dtype), base)
    assert load_file(file).keys() == Checkpoint(base).specs.keys()
    found = back(file, base, tmp_path / "folder")
    expected = tensors_of(base) | trained
    assert found.keys() == expected.keys()
    wrong = [name for name, tensor in expected.items() if not same_bytes(found[name], tensor.to(DTYPES[file_dtype]))]
    assert wrong == []


def test_full_weights_say_what_is_true_of_a_checkpoint_and_neither_time_nor_path(training_inputs: Path, tmp_path: Path) -> None:
    base, file = training_inputs / "base", tmp_path / "full.safetensors"
    write_weights(file, taught(base), params(method="full"), base)
    data = file.read_bytes()
    after_header = data[8 + int.from_bytes(data[:8], "little") :]
    assert metadata_of(file) == {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-xl-v1-base",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.title": "trained",
        "modelspec.resolution": "64x64",
        "modelspec.prediction_type": "epsilon",
        "modelspec.hash_sha256": "0x" + hashlib.sha256(after_header).hexdigest(),
    }


def test_full_weights_have_the_markers_of_what_the_base_predicts(training_inputs: Path, tmp_path: Path) -> None:
    base, schedule = training_inputs / "base", Schedule("v_prediction", True)
    write_diffusers(tmp_path / "base", Checkpoint(base), read_configs(base).with_schedule(schedule))
    write_weights(tmp_path / "full", taught(base), params(method="full"), tmp_path / "base")
    assert Checkpoint(tmp_path / "full").marked == schedule
    assert metadata_of(tmp_path / "full")["modelspec.prediction_type"] == "v"


@pytest.mark.parametrize("method", ["lokr", "full"])
def test_the_bytes_hang_on_the_numbers_alone(training_inputs: Path, tmp_path: Path, method: str) -> None:
    base = training_inputs / "base"
    trained: Mapping[str, torch.Tensor] = LOKR if method == "lokr" else taught(base)
    write_weights(tmp_path / "a", trained, params(method=method), base)
    write_weights(tmp_path / "b", dict(reversed(trained.items())), params(method=method, updates=7), base)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    "trained, words",
    [
        ({"unet.conv_im.weight": torch.ones(2)}, r"unet: 'conv_im\.weight' is not there; expected shape \[2\]"),
        ({"unett.conv_in.weight": torch.ones(2)}, r"unett: 'conv_in\.weight' is not there"),
        ({CONV: torch.ones(2)}, r"unet: 'conv_in\.weight' is of shape \[32, 4, 3, 3\]; expected shape \[2\]"),
        ({CONV: torch.full((32, 4, 3, 3), 1e5)}, r"input_blocks\.0\.0\.weight': .* too large for F16 .*train\.file_dtype"),
    ],
)
def test_what_cannot_be_written_is_named_and_nothing_is(
    training_inputs: Path, tmp_path: Path, trained: dict[str, torch.Tensor], words: str
) -> None:
    with pytest.raises(StageError, match=words) as error:
        write_weights(tmp_path / "full", trained, params(method="full", file_dtype="fp16"), training_inputs / "base")
    assert len(str(error.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_run_of_all_weights_ends_in_a_model_that_is_merged_and_opened(training_inputs: Path, tmp_path: Path) -> None:
    changes = {"updates": 2, "batch_size": 4, "micro_batch_size": 1, "warmup_updates": 0, "pictures": None}
    job = job_of(training_inputs, tmp_path / "run", method="full", file_dtype="fp32", **changes)
    trained, _ = run_updates(job, Ranks(0, 1), StopRequest())
    file = tmp_path / "trained.safetensors"
    write_weights(file, trained, job.params, job.base)
    assert (job.state / CHECKPOINTS / checkpoint_name(2)).read_bytes() == file.read_bytes()
    moved = {name: tensor for name, tensor in tensors_of(job.base).items() if name in trained}
    assert moved.keys() == trained.keys() and not any(torch.equal(moved[name].float(), trained[name]) for name in NAMES)

    recipe = ["--params", str(tmp_path / "run" / "params.yaml"), "--set", "merge.formula=trained", "--set", "merge.dtype=fp32"]
    models = ["--model", f"base={job.base}", "--model", f"trained={file}"]
    merged, folder = tmp_path / "merged.safetensors", tmp_path / "merged"
    merge([*recipe, *models, "--out", str(merged), "--layout", "both"])
    pipelines = [
        StableDiffusionXLPipeline.from_pretrained(folder, **OFFLINE),
        StableDiffusionXLPipeline.from_single_file(str(merged), config=str(folder), **OFFLINE),
        StableDiffusionXLPipeline.from_single_file(str(file), config=str(job.base), **OFFLINE),
    ]
    expected = tensors_of(job.base) | trained
    for pipeline in pipelines:
        of_parts = {part: getattr(pipeline, part).state_dict() for part in SDXL.weights}
        found = {f"{part}.{name}": tensor for part, tensors in of_parts.items() for name, tensor in tensors.items()}
        assert found.keys() == expected.keys()
        assert [name for name, tensor in expected.items() if not same_bytes(found[name], tensor.float())] == []

    with pytest.raises(StageError, match=r"a whole checkpoint is named as a model") as error:
        LokrFile(file)
    assert len(str(error.value).splitlines()) == 1


def test_full_weights_of_stable_cascade_are_comfyuis_stage_c(tmp_path: Path) -> None:
    base, file = write_small_cascade(tmp_path / "base", seed=4), tmp_path / "full.safetensors"
    before = {part: load_file(base / part / CASCADE.weights[part]) for part in CASCADE.weights}
    names = {"prior": "down_blocks.0.2.attention.to_v.weight", "text_encoder": "text_projection.weight"}
    trained = {f"{part}.{name}": before[part][name] * 0.9 + 1 / 3 for part, name in names.items()}
    write_weights(file, trained, cascade_params(method="full", file_dtype="fp32"), base)
    assert metadata_of(file)["modelspec.architecture"] == "stable-cascade-v1-stage-c"
    tensors = load_file(file)
    block = "model.diffusion_model.down_blocks.0.2.attention.attn."
    fused = [before["prior"][f"down_blocks.0.2.attention.to_{matrix}.weight"] for matrix in "qk"]
    assert torch.equal(tensors[f"{block}in_proj_weight"], torch.cat([*fused, trained[f"prior.{names['prior']}"]]))
    projection = tensors["text_encoder.clip_g.transformer.text_projection.weight"]
    assert torch.equal(projection, trained["text_encoder.text_projection.weight"])

    write_diffusers(tmp_path / "folder", Checkpoint(file), read_configs(base))
    for part, tensors in before.items():
        found = load_file(tmp_path / "folder" / part / CASCADE.weights[part])
        expected = {name: trained.get(f"{part}.{name}", tensor) for name, tensor in tensors.items()}
        assert found.keys() == expected.keys()
        assert all(same_bytes(found[name], tensor) for name, tensor in expected.items())


def test_a_lokr_of_stable_cascade_says_so(tmp_path: Path) -> None:
    lokr = {name.replace("lora_unet_a", "lora_prior_unet_clf_1"): tensor for name, tensor in LOKR.items()}
    write_weights(tmp_path / "lokr.safetensors", lokr, cascade_params(), NO_BASE)
    assert metadata_of(tmp_path / "lokr.safetensors")["ss_base_model_version"] == "stable_cascade"
