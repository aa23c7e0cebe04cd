"""make_base.py for Stable Cascade: a whole folder from what is published in parts, and what it refuses."""

import json
import re
import shutil
from pathlib import Path

from repro.errors import StageError
from repro.hashing import check_manifest

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_cascade import write_small_cascade
from small_sdxl import write_small_sdxl
from tiny_booru import folder_bytes, run_script
from tiny_checkpoints import same

from checkpoints.checkpoint import Checkpoint
from checkpoints.layouts import write_single_file
from families.effnet import EfficientNetEncoder, EffnetConfig, load_effnet
from make_base import main as make_base

RECIPE = Path("recipes/sample-cascade.yaml")
PRIOR = "prior/diffusion_pytorch_model.safetensors"
EFFNET = "effnet/model.safetensors"
PARTS_OF_PRIOR = ("model_index.json", "prior", "text_encoder", "tokenizer", "scheduler")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`whole`: a folder of our layout; `prior`, `decoder`: pipelines' folders, the latter with other models in it as on the
    hub; `effnet`; `stage_c.safetensors`: ComfyUI's; `bare.safetensors`: Stability AI's."""
    folder = tmp_path_factory.mktemp("published")
    whole = write_small_cascade(folder / "whole", seed=2)
    (folder / "prior").mkdir()
    for part in PARTS_OF_PRIOR:
        copy = shutil.copytree if (whole / part).is_dir() else shutil.copyfile
        copy(whole / part, folder / "prior" / part)
    index = json.loads((folder / "prior" / "model_index.json").read_text())
    vision = {"image_encoder": ["transformers", "CLIPVisionModelWithProjection"]}
    (folder / "prior" / "model_index.json").write_text(json.dumps(index | vision))
    shutil.copytree(whole / "decoder", folder / "decoder")
    (folder / "decoder" / "stage_c.safetensors").write_bytes(b"thirty gigabytes")
    shutil.copytree(whole / "effnet", folder / "effnet")
    write_single_file(folder / "stage_c.safetensors", Checkpoint(whole), lambda _: {})
    stage = {name: tensor for name, tensor in load_file(folder / "stage_c.safetensors").items() if name.startswith("model.")}
    bare = {name.removeprefix("model.diffusion_model."): (tensor * 2).bfloat16() for name, tensor in stage.items()}
    save_file(bare, folder / "bare.safetensors")
    return folder


def settings(published: Path, formula: str, files: dict[str, str], **base: str) -> list[str]:
    listed = ", ".join(f"{name}: {file}" for name, file in files.items())
    values = {"models.folder": published, "models.files": f"{{{listed}}}", "base.formula": formula}
    values |= {f"base.{key}": value for key, value in base.items()}
    return ["--params", str(RECIPE), *(word for key, value in values.items() for word in ("--set", f"{key}={value}"))]


def made(published: Path, output: Path, *args: object, **base: str) -> Path:
    make_base([*settings(published, *args, **base), "--output", str(output)])
    check_manifest(output)
    return output


def test_a_whole_folder_from_published_parts_is_the_folder_itself(published: Path, tmp_path: Path) -> None:
    given = settings(published, "m", {"m": "prior"}, image_encoder="effnet", decoder="decoder")
    result = run_script("make_base.py", *given, "--output", tmp_path / "process")
    assert result.returncode == 0 and result.stdout.endswith("weights, m, as fp32\n"), result.stderr
    parts = made(published, tmp_path / "parts", "m", {"m": "prior"}, image_encoder="effnet", decoder="decoder")
    whole = made(published, tmp_path / "whole", "m", {"m": "whole"})
    single = made(published, tmp_path / "single", "c", {"c": "stage_c.safetensors", "p": "whole"})
    assert folder_bytes(tmp_path / "process") == folder_bytes(parts) == folder_bytes(whole) == folder_bytes(single)
    assert {path.name for path in whole.iterdir()} == {"MANIFEST.json", *PARTS_OF_PRIOR, "effnet", "decoder"}
    assert folder_bytes(whole / "decoder") == folder_bytes(published / "whole" / "decoder")
    index = json.loads((parts / "model_index.json").read_text())
    assert index["image_encoder"] == [None, None] and index["resolution_multiple"] == 10.67
    for file in (PRIOR, "text_encoder/model.safetensors", EFFNET):
        assert same(load_file(whole / file), load_file(published / "whole" / file))
    load_effnet(whole / "effnet")


def test_weights_are_float32_whatever_they_were(published: Path, tmp_path: Path) -> None:
    files = {"stage_c": "bare.safetensors", "m": "whole"}
    mixed = made(published, tmp_path / "base", "0.5 * m + 0.5 * stage_c", files, unmatched="copy", unchanged="accept")
    ours, theirs, before = (
        load_file(path) for path in (mixed / PRIOR, published / "bare.safetensors", published / "whole" / PRIOR)
    )
    assert {tensor.dtype for tensor in ours.values()} == {torch.float32}
    expected = 0.5 * before["clf.1.weight"] + 0.5 * theirs["clf.1.weight"].float()
    assert torch.equal(ours["clf.1.weight"], expected)
    assert same(load_file(mixed / EFFNET), load_file(published / "whole" / EFFNET))


def test_the_image_encoder_of_the_parameters_goes_before_the_models_own(published: Path, tmp_path: Path) -> None:
    other = {name: tensor * 3 for name, tensor in load_file(published / "effnet" / "model.safetensors").items()}
    shutil.copytree(published / "effnet", published / "other_effnet", dirs_exist_ok=True)
    save_file(other, published / "other_effnet" / "model.safetensors")
    base = made(published, tmp_path / "base", "m", {"m": "whole"}, image_encoder="other_effnet")
    assert same(load_file(base / EFFNET), other)


def test_a_file_alone_is_an_image_encoder_of_the_real_size(published: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = EfficientNetEncoder(EffnetConfig())
    save_file(encoder.state_dict(), published / "effnet_encoder.safetensors")
    base = made(published, tmp_path / "base", "m", {"m": "prior"}, image_encoder="effnet_encoder.safetensors", decoder="decoder")
    assert same(load_effnet(base / "effnet").state_dict(), encoder.state_dict())


def comfyui_file(published: Path, path: Path, times: float = 1.0) -> None:
    """Stage C as published files have it: with a previewer and CLIP's image encoder, which have no place in a folder."""
    tensors = load_file(published / "stage_c.safetensors")
    more = {"vae.previewer.blocks.0.weight": torch.ones(4, 4), "clip_l_vision.vision_model.pre_layrnorm.weight": torch.ones(4)}
    save_file({name: t * times if t.is_floating_point() else t for name, t in tensors.items()} | more, path)


@pytest.mark.parametrize("base", [{}, {"image_encoder": "effnet"}])
def test_a_formula_that_changes_no_tensor_of_comfyuis_files_is_refused(
    published: Path, tmp_path: Path, base: dict[str, str]
) -> None:
    for name in ("comfyui", "same"):
        comfyui_file(published, published / f"{name}.safetensors")
    files = {"c": "comfyui.safetensors", "d": "same.safetensors", "p": "whole"}
    with pytest.raises(StageError, match=r"the formula changes no tensor of c "):
        made(published, tmp_path / "base", "0.5 * c + 0.5 * d", files, **base)
    assert not (tmp_path / "base").exists()


def test_an_image_encoder_without_counts_gets_those_by_which_comfyui_finds_it(published: Path, tmp_path: Path) -> None:
    ours = load_file(published / "effnet" / "model.safetensors")
    shutil.copytree(published / "effnet", published / "bare_effnet")
    floats = {name: tensor for name, tensor in ours.items() if tensor.is_floating_point()}
    save_file(floats, published / "bare_effnet" / "model.safetensors")
    made(published, tmp_path / "base", "m", {"m": "whole"}, image_encoder="bare_effnet")
    found = load_file(tmp_path / "base" / EFFNET)
    assert found.keys() == ours.keys() > floats.keys()
    counts = [found[name] for name in found.keys() - floats.keys()]
    assert all(torch.equal(count, torch.tensor(0)) for count in counts)
    assert same({name: found[name] for name in floats}, floats)


@pytest.mark.parametrize("part", ["decoder", "text_encoder", "vqgan"])
@pytest.mark.parametrize("given", [True, False], ids=["given", "its own"])
def test_a_decoder_that_lacks_a_tensor_is_refused(published: Path, tmp_path: Path, part: str, given: bool) -> None:
    whole = tmp_path / "models" / "whole"
    shutil.copytree(published / "whole", whole)
    (path,) = (whole / "decoder" / part).glob("*.safetensors")
    tensors = load_file(path)
    gone = max(name for name in tensors if name.endswith(".weight"))
    save_file({name: tensor for name, tensor in tensors.items() if name != gone}, path, {"format": "pt"})
    words = (
        f"{part}/config.json calls for '{gone}' of shape .*; the model has no tensor '{gone}': fetch or make the decoder again"
    )
    with pytest.raises(StageError, match=words):
        made(tmp_path / "models", tmp_path / "base", "m", {"m": "whole"}, **({"decoder": "whole/decoder"} if given else {}))
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize(
    "formula, files, base, words",
    [
        ("m", {"m": "prior"}, {"decoder": "decoder"}, "base.image_encoder: the formula's models have none"),
        ("m", {"m": "prior"}, {"image_encoder": "effnet"}, "prior has no decoder folder; name the folder of stage B and stage A"),
        ("m", {"m": "whole"}, {"image_encoder": "none.safetensors"}, "none.safetensors: no such weight file"),
        ("m", {"m": "whole"}, {"image_encoder": "bare.safetensors"}, "expected an EfficientNet encoder alone"),
        ("m", {"m": "whole"}, {"image_encoder": "whole/effnet/model.safetensors"}, "give the configs of this model"),
        ("m", {"m": "whole"}, {"decoder": "prior"}, "expected a folder of StableCascadeDecoderPipeline"),
        (
            "m",
            {"m": "bare.safetensors", "p": "whole"},
            {"image_encoder": "effnet"},
            "calls for 'text_model.embeddings.position_embedding.weight'",
        ),
        ("m", {"m": "decoder"}, {}, "expected a folder of StableDiffusionXLPipeline or StableCascadePriorPipeline"),
        ("m", {"m": "bare.safetensors", "p": "whole"}, {}, "base.image_encoder: the formula's models have none"),
        ("c", {"c": "stage_c.safetensors"}, {}, "add --configs FOLDER"),
    ],
)  # fmt: skip
def test_what_is_missing_or_something_else_is_named(
    published: Path, tmp_path: Path, formula: str, files: dict[str, str], base: dict[str, str], words: str
) -> None:
    with pytest.raises(StageError, match=re.escape(words)):
        make_base([*settings(published, formula, files, **base), "--output", str(tmp_path / "base")])
    assert not (tmp_path / "base").exists()


def test_models_of_the_other_family_and_of_both_are_refused(published: Path, tmp_path: Path) -> None:
    write_small_sdxl(published / "sdxl", seed=1)
    output = ("--output", str(tmp_path / "base"))
    with pytest.raises(StageError, match=r"family: the parameters say cascade, but .*sdxl is a model of SDXL"):
        make_base([*settings(published, "m", {"m": "sdxl"}), *output])
    with pytest.raises(StageError, match=r"'m' is Stable Cascade and 'x' is SDXL.*two families cannot be merged"):
        make_base([*settings(published, "0.5 * m + 0.5 * x", {"m": "whole", "x": "sdxl"}), *output])
