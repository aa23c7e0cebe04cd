"""Stable Cascade's names in ComfyUI's single files, held against diffusers' own conversion and ComfyUI's rules."""

import re
from collections.abc import Mapping
from pathlib import Path

from repro.errors import StageError
from repro.tensorfile import TensorSpec, spec_of

import pytest
import torch
from diffusers import StableCascadeUNet
from diffusers.loaders.single_file_utils import convert_stable_cascade_unet_single_file_to_diffusers
from safetensors.torch import load_file, save_file
from small_cascade import write_small_cascade
from tiny_checkpoints import same

from checkpoints.cascade_names import EARLIER_PROJECTION, LOGIT_SCALE, PROJECTION
from checkpoints.checkpoint import Checkpoint
from checkpoints.diffusers_folder import open_folder, read_configs
from checkpoints.keymap import Specs, lokr_places, to_diffusers, to_single_file
from checkpoints.layouts import write_diffusers, write_single_file
from checkpoints.model_family import CASCADE, CASCADE_DECODER, ModelFamily, family_of_names
from planning.cascade_architecture import meta_modules, real_decoder_configs, real_prior_configs

STAGE = "model.diffusion_model."
PRIOR_FILE = "prior/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_cascade(tmp_path_factory.mktemp("small") / "base", seed=3)


@pytest.fixture(scope="module")
def single(folder: Path) -> Path:
    path = folder.with_name("base.safetensors")
    write_single_file(path, Checkpoint(folder), lambda _: {})
    return path


@pytest.fixture(scope="module")
def decoder_file(folder: Path) -> Path:
    path = folder.with_name("decoder.safetensors")
    write_single_file(path, Checkpoint(open_folder(folder / "decoder", (CASCADE_DECODER,))), lambda _: {})
    return path


def specs_of(configs: Mapping[str, Mapping[str, object]]) -> dict[str, dict[str, TensorSpec]]:
    return {part: {n: spec_of(t) for n, t in module.state_dict().items()} for part, module in meta_modules(configs).items()}


def single_specs(models: Mapping[str, Specs], family: ModelFamily, configs: Mapping) -> dict[str, TensorSpec]:
    return {name: tensor.spec for name, tensor in to_single_file(models, family.layout(configs)).items()}


@pytest.mark.parametrize(
    "family, configs", [(CASCADE, real_prior_configs()), (CASCADE_DECODER, real_decoder_configs())], ids=["stage C", "stage B"]
)
def test_the_real_model_goes_there_and_back(family: ModelFamily, configs: dict) -> None:
    models = specs_of(configs)
    single = single_specs(models, family, configs)
    back = to_diffusers(single, family.layout_of_names(single.keys()))
    assert {part: {name: tensor.spec for name, tensor in of.items()} for part, of in back.items()} == models
    kinds = {re.sub(r"(?<=\.)\d+(?=\.)", "N", name) for name in single if name.startswith(STAGE)}
    assert f"{STAGE}down_blocks.N.N.attention.attn.in_proj_weight" in kinds
    assert f"{STAGE}up_blocks.N.N.attention.attn.out_proj.bias" in kinds
    assert not any("to_q" in kind or "to_out" in kind for kind in kinds)


def test_what_comfyui_knows_a_stage_c_file_by(single: Path) -> None:
    names = load_file(single).keys()
    assert {
        "model.diffusion_model.clf.1.weight",
        "model.diffusion_model.clip_txt_mapper.weight",
        "text_encoder.clip_g.transformer.text_model.final_layer_norm.weight",
        "text_encoder.clip_g.transformer.text_projection.weight",
        "vae.encoder.backbone.1.0.block.0.1.num_batches_tracked",
        "vae.encoder.mapper.1.running_mean",
    } <= names
    assert {name.split(".")[0] for name in names} == {"model", "text_encoder", "vae"}
    assert family_of_names(names) is CASCADE


def test_what_comfyui_knows_a_stage_b_file_by(decoder_file: Path) -> None:
    names = load_file(decoder_file).keys()
    assert {
        "model.diffusion_model.clf.1.weight",
        "model.diffusion_model.clip_mapper.weight",
        "text_encoder.clip_g.transformer.text_projection.weight",
        "vae.vquantizer.codebook.weight",
        "vae.up_blocks.0.0.weight",
    } <= names
    assert not any("clip_txt" in name for name in names)


@pytest.mark.parametrize("which", ["prior", "decoder"])
def test_diffusers_own_conversion_finds_the_same_tensors(folder: Path, single: Path, decoder_file: Path, which: str) -> None:
    file, part = {"prior": (single, "prior"), "decoder": (decoder_file, "decoder/decoder")}[which]
    stage = {name.removeprefix(STAGE): tensor for name, tensor in load_file(file).items() if name.startswith(STAGE)}
    converted = convert_stable_cascade_unet_single_file_to_diffusers(stage)
    assert same(converted, load_file(folder / part / "diffusion_pytorch_model.safetensors"))


def test_diffusers_opens_our_stage_c(folder: Path, single: Path) -> None:
    """It knows stage C's own names alone, as in Stability AI's file."""
    stage = {name.removeprefix(STAGE): tensor for name, tensor in load_file(single).items() if name.startswith(STAGE)}
    options = {"local_files_only": True, "torch_dtype": torch.float32}
    ours = StableCascadeUNet.from_single_file(stage, config=str(folder), subfolder="prior", **options)
    assert same(ours.state_dict(), load_file(folder / PRIOR_FILE))


def test_round_trip_is_the_identity(folder: Path, single: Path, tmp_path: Path) -> None:
    write_diffusers(tmp_path / "back", Checkpoint(single), read_configs(folder))
    for component, file in CASCADE.weights.items():
        assert same(load_file(tmp_path / "back" / component / file), load_file(folder / component / file))
    write_single_file(tmp_path / "again.safetensors", Checkpoint(tmp_path / "back"), lambda _: {})
    assert (tmp_path / "again.safetensors").read_bytes() == single.read_bytes()


def test_the_earlier_form_of_the_text_projection(folder: Path, single: Path, tmp_path: Path) -> None:
    tensors = load_file(single)
    narrow = tensors.pop(PROJECTION)[:40].contiguous()
    save_file(tensors | {EARLIER_PROJECTION: narrow.T.contiguous()}, tmp_path / "earlier.safetensors")
    checkpoint = Checkpoint(tmp_path / "earlier.safetensors")
    assert EARLIER_PROJECTION not in checkpoint.specs
    assert checkpoint.specs[PROJECTION] == TensorSpec("F32", (40, 64))
    assert torch.equal(checkpoint.read_float32(PROJECTION, 100, 900), narrow.flatten()[100:900])


def test_stability_ais_file_of_one_part(folder: Path, single: Path, tmp_path: Path) -> None:
    tensors = load_file(single)
    for prefix in (STAGE, "vae.encoder."):
        part = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        save_file(part, tmp_path / "part.safetensors")
        checkpoint = Checkpoint(tmp_path / "part.safetensors")
        assert checkpoint.family is CASCADE
        assert checkpoint.specs == {name: spec_of(tensors[name]) for name in tensors if name.startswith(prefix)}
        name = next(name for name in checkpoint.specs if checkpoint.specs[name].elements > 4)
        assert torch.equal(checkpoint.read(name, 1, 4), tensors[name].flatten()[1:4])


def test_a_part_of_a_diffusers_folder_is_no_checkpoint(folder: Path) -> None:
    with pytest.raises(StageError, match="one part of a diffusers folder; name the folder itself"):
        Checkpoint(folder / PRIOR_FILE)


def test_what_comfyuis_files_have_beside_the_model_stays_in_single_files_alone(
    folder: Path, single: Path, tmp_path: Path
) -> None:
    beside = {
        name: torch.ones(3)
        for name in ("vae.encoder.mean", "vae.previewer.blocks.0.weight", "clip_l_vision.visual_projection.weight")
    }
    save_file(load_file(single) | beside, tmp_path / "published.safetensors")
    published = Checkpoint(tmp_path / "published.safetensors")
    assert beside.keys() <= published.specs.keys()
    write_diffusers(tmp_path / "folder", published, read_configs(folder))
    assert Checkpoint(tmp_path / "folder").specs.keys() == published.specs.keys() - beside.keys()


def test_a_tensor_that_is_not_stable_cascades_is_named(folder: Path, single: Path) -> None:
    specs = {**Checkpoint(single).specs, f"{STAGE}motion.weight": TensorSpec("F32", (2,))}
    with pytest.raises(StageError, match=r"'model\.diffusion_model\.motion\.weight' is not one of Stable Cascade's"):
        to_diffusers(specs, CASCADE.layout_of_names(specs))
    models = {"prior": {"motion.weight": TensorSpec("F32", (2,))}}
    with pytest.raises(StageError, match=r"prior: tensor 'motion\.weight' has no place in the single file of Stable Cascade"):
        to_single_file(models, CASCADE.layout(read_configs(folder).configs))


def test_lokr_names_of_one_weight_in_all_spellings() -> None:
    in_proj = f"{STAGE}down_blocks.0.2.attention.attn.in_proj_weight"
    out_proj = f"{STAGE}down_blocks.0.2.attention.attn.out_proj.weight"
    channel = f"{STAGE}up_blocks.1.0.channelwise.0.weight"
    text = "text_encoder.clip_g.transformer.text_model.encoder.layers.3.mlp.fc1.weight"
    names = [in_proj, out_proj, channel, text, PROJECTION, "vae.encoder.mapper.0.weight"]
    places = lokr_places(names, CASCADE.layout_of_names(names))
    assert {name: (place.name, place.form, place.part) for name, place in places.items()} == {
        **{
            f"lora_prior_unet_down_blocks_0_2_attention_{attn}to_{matrix}": (in_proj, "rows", part)
            for attn in ("attn_", "")
            for part, matrix in enumerate("qkv")
        },
        "lora_prior_unet_down_blocks_0_2_attention_attn_out_proj": (out_proj, "same", 0),
        "lora_prior_unet_down_blocks_0_2_attention_to_out_0": (out_proj, "same", 0),
        "lora_prior_unet_up_blocks_1_0_channelwise_0": (channel, "same", 0),
        "lora_prior_te_text_model_encoder_layers_3_mlp_fc1": (text, "same", 0),
        "lora_prior_te_encoder_layers_3_mlp_fc1": (text, "same", 0),
        "lora_prior_te_text_projection": (PROJECTION, "same", 0),
    }


def test_every_layers_lokr_name_is_comfyuis_and_lands_on_that_layer(folder: Path) -> None:
    """ComfyUI's name: the key in its model, which has q, k and v apart below `attn`, with `_` for `.`."""
    configs = read_configs(folder).configs
    layout, specs = CASCADE.layout(configs), Checkpoint(folder).specs
    places = lokr_places([name for name, spec in specs.items() if len(spec.shape) > 1], layout)
    modules = {part: module for part, module in open_modules(folder).items() if part != "effnet"}
    for component, module in modules.items():
        for path, layer in module.named_modules():
            if not isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
                continue
            name = layout.lokr_name(component, path)
            assert places[name].shape_in_folder(specs[places[name].name].shape) == tuple(layer.weight.shape)
            if component == "prior":
                theirs = path.replace("attention.to_out.0", "attention.attn.out_proj")
                theirs = re.sub(r"attention\.(to_[qkv])", r"attention.attn.\1", theirs)
                assert name == "lora_prior_unet_" + theirs.replace(".", "_")
    assert layout.lokr_name("prior", "down_blocks.0.2.attention.to_v").endswith("attention_attn_to_v")
    assert layout.lokr_name("prior", "nothing.such") is None


def open_modules(folder: Path) -> dict[str, torch.nn.Module]:
    return meta_modules({part: read_configs(folder).configs[part] for part in CASCADE.weights})


def test_logit_scale_is_there_for_comfyui(single: Path) -> None:
    assert load_file(single)[LOGIT_SCALE].item() == pytest.approx(4.6052, abs=1e-4)
