import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from repro import numerics
from repro.errors import StageError
from repro.tensorfile import TensorSpec, spec_of

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file
from small_sdxl import write_small_sdxl
from tiny_checkpoints import same

from checkpoints.checkpoint import Checkpoint
from checkpoints.diffusers_folder import read_configs
from checkpoints.keymap import Layout, Specs, lokr_places, to_diffusers, to_single_file
from checkpoints.layouts import write_diffusers, write_single_file
from checkpoints.model_family import SDXL as FAMILY
from checkpoints.sdxl_names import EMBEDDINGS, LOGIT_SCALE, SDXL, Architecture, sdxl_layout
from planning.sdxl_architecture import meta_modules, real_sdxl_configs

# Names and shapes of SDXL's single file as sd-mecha 1.1.8 lists them (sdxl-sgm, without position ids and schedule tables).
SDXL_NAMES_AND_SHAPES = "ee6d8435b5310eab19701490cac32617bef482fc5d9d2aa780c11dc8627e990c"
SAMPLE_BASE = Path("models/sample-base")
Models = dict[str, dict[str, TensorSpec]]


@pytest.fixture(scope="module")
def real_sdxl() -> tuple[Models, Architecture]:
    """Tensors without memory of stabilityai/stable-diffusion-xl-base-1.0, from its configs."""
    configs = real_sdxl_configs()
    modules = meta_modules(configs)
    specs = {c: {name: spec_of(tensor) for name, tensor in module.state_dict().items()} for c, module in modules.items()}
    return specs, Architecture.from_configs(configs)


def single_specs(models: Mapping[str, Specs], layout: Layout) -> dict[str, TensorSpec]:
    return {name: tensor.spec for name, tensor in to_single_file(models, layout).items()}


def folder_specs(single: Specs, layout: Layout) -> Models:
    return {c: {name: tensor.spec for name, tensor in t.items()} for c, t in to_diffusers(single, layout).items()}


def test_real_sdxl_maps_to_the_2514_names_of_its_single_file(real_sdxl: tuple[Models, Architecture]) -> None:
    models, architecture = real_sdxl
    assert architecture == SDXL
    assert {c: len(t) for c, t in models.items()} == {"unet": 1680, "text_encoder": 196, "text_encoder_2": 517, "vae": 248}
    single = single_specs(models, sdxl_layout(architecture))
    assert len(single) == 2514
    listed = "\n".join(sorted(f"{name} {list(spec.shape)}" for name, spec in single.items()))
    assert hashlib.sha256(listed.encode()).hexdigest() == SDXL_NAMES_AND_SHAPES
    assert folder_specs(single, sdxl_layout(architecture)) == models


def test_position_ids_of_the_first_text_encoder_are_the_2515th(real_sdxl: tuple[Models, Architecture]) -> None:
    ids = {"text_model.embeddings.position_ids": TensorSpec("I64", (1, 77))}
    models = real_sdxl[0] | {"text_encoder": real_sdxl[0]["text_encoder"] | ids}
    single = single_specs(models, sdxl_layout())
    assert len(single) == 2515
    assert single["conditioner.embedders.0.transformer.text_model.embeddings.position_ids"] == TensorSpec("I64", (1, 77))
    assert folder_specs(single, sdxl_layout()) == models


def test_names_of_real_sdxl_tell_its_architecture(real_sdxl: tuple[Models, Architecture]) -> None:
    names = single_specs(real_sdxl[0], sdxl_layout()).keys()
    assert Architecture.from_names(names) == SDXL
    unet, *others = ([n for n in names if FAMILY.component_of(n) == component] for component in FAMILY.weights)
    assert Architecture.from_names(unet) == SDXL  # what a part does not show is taken as in SDXL
    no_attention = replace(SDXL, unet_up_attention=(False, False, False))
    assert [Architecture.from_names(part) for part in others] == [no_attention] * 3
    assert set(EMBEDDINGS) <= names


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_sdxl(tmp_path_factory.mktemp("small") / "base", seed=3)


@pytest.fixture(scope="module")
def small_single_file(small_folder: Path) -> Path:
    path = small_folder.with_name("base.safetensors")
    write_single_file(path, Checkpoint(small_folder), lambda _: {})
    return path


@pytest.fixture
def small_specs(small_folder: Path) -> tuple[Models, Layout]:
    checkpoint = Checkpoint(small_folder)
    layout = sdxl_layout(Architecture.from_configs(checkpoint.configs.configs))
    return folder_specs(checkpoint.specs, layout), layout


@pytest.mark.parametrize("levels", [2, 3])
def test_names_of_small_models_tell_their_architecture(small_folder: Path, levels: int) -> None:
    checkpoint = Checkpoint({2: SAMPLE_BASE, 3: small_folder}[levels])
    architecture = Architecture.from_names(checkpoint.specs.keys())
    assert architecture == Architecture.from_configs(checkpoint.configs.configs) != SDXL
    assert architecture.unet_levels == levels


@pytest.mark.golden
def test_names_of_a_part_of_sdxl_tell_its_architecture(golden: Path) -> None:
    specs = Checkpoint(golden / "merge" / "in_base7.safetensors").specs
    assert len(specs) == 81
    architecture = Architecture.from_names(specs.keys())
    assert architecture == replace(SDXL, text_encoder_2_layers=1)  # of its 32 layers it has the first
    assert to_diffusers(specs, sdxl_layout(architecture)) == to_diffusers(specs, sdxl_layout(SDXL))


@pytest.mark.parametrize("which", ["small", "sample"])
def test_round_trip_of_a_model_is_the_identity(small_folder: Path, tmp_path: Path, which: str) -> None:
    folder = {"small": small_folder, "sample": SAMPLE_BASE}[which]
    configs = read_configs(folder)
    files = [tmp_path / f"{n}.safetensors" for n in range(2)]
    write_single_file(files[0], Checkpoint(folder), lambda _: {})
    write_diffusers(tmp_path / "back", Checkpoint(files[0]), configs)
    write_single_file(files[1], Checkpoint(tmp_path / "back"), lambda _: {})
    assert files[0].read_bytes() == files[1].read_bytes()
    for component, weights in FAMILY.weights.items():
        assert same(load_file(tmp_path / "back" / component / weights), load_file(folder / component / weights))
    write_diffusers(tmp_path / "again", Checkpoint(files[1]), configs)
    assert tree(tmp_path / "again") == tree(tmp_path / "back")
    assert which != "sample" or tree(tmp_path / "back") == tree(folder)  # that one was written canonically


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_diffusers_reads_the_same_tensors_from_the_single_file(small_folder: Path, small_single_file: Path) -> None:
    numerics.fix_torch()
    options = {"local_files_only": True, "torch_dtype": torch.float16}
    from_file = StableDiffusionXLPipeline.from_single_file(str(small_single_file), config=str(small_folder), **options)
    from_folder = StableDiffusionXLPipeline.from_pretrained(small_folder, **options)
    for component in FAMILY.weights:
        ours, theirs = (getattr(pipeline, component).state_dict() for pipeline in (from_file, from_folder))
        assert ours.keys() == theirs.keys()
        assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_logit_scale_is_the_log_of_100(small_single_file: Path) -> None:
    scale = load_file(small_single_file)[LOGIT_SCALE]
    assert scale.shape == () and scale.dtype == torch.float16
    assert scale.item() == pytest.approx(4.6052, abs=2e-3)


@pytest.mark.golden
def test_every_module_of_kohyas_sdxl_lokr_has_a_place_of_its_own(golden: Path, real_sdxl: tuple[Models, Architecture]) -> None:
    keys = json.loads((golden / "train" / "lokr_keys_sdxl.json").read_text())["keys"]
    single = single_specs(real_sdxl[0], sdxl_layout())
    places = lokr_places([name for name, spec in single.items() if len(spec.shape) > 1], sdxl_layout())
    names = {key.split(".")[0] for key in keys}
    assert len(names) == 1052 and names <= places.keys()
    assert len({(places[name].name, places[name].part) for name in names}) == 1052
    for name in names:
        w1, w2 = keys[f"{name}.lokr_w1"], keys[f"{name}.lokr_w2"]
        target = places[name].shape_in_folder(single[places[name].name].shape)
        assert (w1[0] * w2[0], w1[1] * w2[1], *w2[2:]) == target


def test_lokr_names_of_one_weight_in_all_spellings() -> None:
    unet = "model.diffusion_model.input_blocks.7.1.transformer_blocks.9.attn1.to_q.weight"
    clip_l = "conditioner.embedders.0.transformer.text_model.encoder.layers.3.mlp.fc1.weight"
    in_proj = "conditioner.embedders.1.model.transformer.resblocks.31.attn.in_proj_weight"
    projection = "conditioner.embedders.1.model.text_projection"
    vae = "first_stage_model.encoder.mid.attn_1.q.weight"
    places = lokr_places([unet, clip_l, in_proj, projection, vae], sdxl_layout())
    assert {name: (place.name, place.form, place.part) for name, place in places.items()} == {
        "lora_unet_input_blocks_7_1_transformer_blocks_9_attn1_to_q": (unet, "same", 0),
        "lora_unet_down_blocks_2_attentions_0_transformer_blocks_9_attn1_to_q": (unet, "same", 0),
        "lora_te1_text_model_encoder_layers_3_mlp_fc1": (clip_l, "same", 0),
        "lora_te1_encoder_layers_3_mlp_fc1": (clip_l, "same", 0),
        **{
            f"lora_te2_{model}encoder_layers_31_self_attn_{matrix}_proj": (in_proj, "rows", part)
            for model in ("text_model_", "")
            for part, matrix in enumerate("qkv")
        },
        "lora_te2_text_projection": (projection, "transposed", 0),
    }


def test_a_tensor_without_a_place_is_named(small_specs: tuple[Models, Layout]) -> None:
    models, layout = small_specs
    models["unet"]["down_blocks.0.motion_modules.0.proj_in.weight"] = TensorSpec("F16", (2, 2))
    with pytest.raises(StageError, match=r"unet.*down_blocks\.0\.motion_modules\.0\.proj_in\.weight"):
        to_single_file(models, layout)
    with pytest.raises(StageError, match="cond_stage_model"):
        to_diffusers({"cond_stage_model.transformer.x": TensorSpec("F16", (1,))}, layout)


@pytest.mark.parametrize("kind", ["weight", "bias"])
@pytest.mark.parametrize("matrix", "qkv")
def test_a_missing_part_of_in_proj_is_named(small_specs: tuple[Models, Layout], matrix: str, kind: str) -> None:
    models, layout = small_specs
    del models["text_encoder_2"][f"text_model.encoder.layers.1.self_attn.{matrix}_proj.{kind}"]
    with pytest.raises(StageError, match=rf"resblocks\.1\.attn\.in_proj_{kind} needs q, k and v"):
        to_single_file(models, layout)


@pytest.mark.parametrize(
    "component, name, shape, complaint",
    [
        ("text_encoder_2", "text_model.encoder.layers.0.self_attn.k_proj.weight", (32, 64), r"in_proj_weight needs .* one shape"),
        ("text_encoder_2", "text_model.encoder.layers.0.self_attn.v_proj.bias", (65,), r"in_proj_bias needs .* one shape"),
        ("text_encoder_2", "text_projection.weight", (4096,), r"'text_projection\.weight' has shape \[4096\]; expected a matrix"),
        ("vae", "encoder.mid_block.attentions.0.to_q.weight", (64, 64, 1), r"to_q\.weight' has shape \[64, 64, 1\]"),
    ],
)
def test_a_folders_tensor_of_a_wrong_form_is_named(
    small_specs: tuple[Models, Layout], component: str, name: str, shape: tuple[int, ...], complaint: str
) -> None:
    models, layout = small_specs
    assert name in models[component]
    models[component][name] = TensorSpec("F16", shape)
    with pytest.raises(StageError, match=complaint):
        to_single_file(models, layout)


@pytest.mark.parametrize(
    "name, shape",
    [
        ("first_stage_model.encoder.mid.attn_1.q.weight", (8, 8)),
        ("first_stage_model.encoder.mid.attn_1.k.weight", (8, 8, 3, 3)),
        ("first_stage_model.decoder.mid.attn_1.proj_out.weight", (8, 8, 1)),
        ("conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight", (10, 4)),
        ("conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_bias", ()),
        ("conditioner.embedders.1.model.text_projection", (8,)),
        ("conditioner.embedders.1.model.text_projection", (8, 8, 1)),
    ],
)
def test_a_single_files_tensor_of_a_wrong_form_is_named(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(StageError, match=r"has shape \[.*not that of its single-file layout") as error:
        to_diffusers({name: TensorSpec("F16", shape)}, sdxl_layout())
    assert f"'{name}' has shape {list(shape)}" in str(error.value)


def test_forms_change_shapes_as_they_should() -> None:
    single = {
        "first_stage_model.encoder.mid.attn_1.q.weight": TensorSpec("F32", (8, 9, 1, 1)),
        "first_stage_model.encoder.mid.attn_1.q.bias": TensorSpec("F32", (8,)),
        "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight": TensorSpec("BF16", (12, 5)),
        "conditioner.embedders.1.model.text_projection": TensorSpec("F16", (8, 6)),
        LOGIT_SCALE: TensorSpec("F16", (1,)),
    }
    layer = "text_model.encoder.layers.0.self_attn."
    assert folder_specs(single, sdxl_layout()) == {
        "unet": {},
        "text_encoder": {},
        "text_encoder_2": {
            **{f"{layer}{matrix}_proj.weight": TensorSpec("BF16", (4, 5)) for matrix in "qkv"},
            "text_projection.weight": TensorSpec("F16", (6, 8)),
        },
        "vae": {
            "encoder.mid_block.attentions.0.to_q.weight": TensorSpec("F32", (8, 9)),
            "encoder.mid_block.attentions.0.to_q.bias": TensorSpec("F32", (8,)),
        },
    }


def test_component_of_a_name() -> None:
    assert FAMILY.component_of("model.diffusion_model.out.2.bias") == "unet"
    assert FAMILY.component_of("conditioner.embedders.1.model.ln_final.bias") == "text_encoder_2"
    assert FAMILY.component_of("alphas_cumprod") is None
