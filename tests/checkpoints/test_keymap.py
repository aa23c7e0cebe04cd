import hashlib
import json
from pathlib import Path

from repro import numerics
from repro.errors import StageError

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from small_sdxl import write_small_sdxl
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from checkpoints.diffusers_folder import read_folder
from checkpoints.keymap import (
    LOGIT_SCALE,
    SDXL,
    Architecture,
    Layout,
    Tensors,
    component_of,
    lokr_places,
    to_diffusers,
    to_single_file,
)
from checkpoints.merging import round_to

# Names and shapes of SDXL's single file as sd-mecha 1.1.8 lists them (sdxl-sgm, without position ids and schedule tables).
SDXL_NAMES_AND_SHAPES = "ee6d8435b5310eab19701490cac32617bef482fc5d9d2aa780c11dc8627e990c"


@pytest.fixture(scope="module")
def real_sdxl() -> tuple[dict[str, Tensors], Architecture]:
    """Tensors without memory of stabilityai/stable-diffusion-xl-base-1.0, from its configs."""
    with torch.device("meta"):
        modules = {
            "unet": UNet2DConditionModel(
                sample_size=128,
                block_out_channels=(320, 640, 1280),
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                transformer_layers_per_block=(1, 2, 10),
                attention_head_dim=(5, 10, 20),
                cross_attention_dim=2048,
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=256,
                projection_class_embeddings_input_dim=2816,
            ),
            "text_encoder": CLIPTextModel(clip_config(768, layers=12, heads=12)),
            "text_encoder_2": CLIPTextModelWithProjection(clip_config(1280, layers=32, heads=20)),
            "vae": AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2,
            ),
        }
    tensors = {component: dict(module.state_dict()) for component, module in modules.items()}
    configs = {component: dict(module.config.items()) for component, module in modules.items() if component in ("unet", "vae")}
    configs["text_encoder_2"] = modules["text_encoder_2"].config.to_dict()
    return tensors, Architecture.from_configs(configs)


def clip_config(width: int, layers: int, heads: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
    )


def shapes(tensors: Tensors) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def test_real_sdxl_maps_to_the_2514_names_of_its_single_file(real_sdxl: tuple[dict[str, Tensors], Architecture]) -> None:
    tensors, architecture = real_sdxl
    assert architecture == SDXL
    assert {c: len(t) for c, t in tensors.items()} == {"unet": 1680, "text_encoder": 196, "text_encoder_2": 517, "vae": 248}
    single = to_single_file(tensors, Layout(architecture))
    assert len(single) == 2514
    listed = "\n".join(sorted(f"{name} {list(tensor.shape)}" for name, tensor in single.items()))
    assert hashlib.sha256(listed.encode()).hexdigest() == SDXL_NAMES_AND_SHAPES
    back = to_diffusers(single, Layout(architecture))
    assert {c: shapes(t) for c, t in back.items()} == {c: shapes(t) for c, t in tensors.items()}


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_sdxl(tmp_path_factory.mktemp("small") / "base", seed=3)


def test_round_trip_of_a_model_is_the_identity(small_folder: Path) -> None:
    model = read_folder(small_folder)
    layout = Layout(Architecture.from_configs(model.configs))
    single = to_single_file(model.models, layout)
    back = to_diffusers(single, layout)
    assert {c: set(t) for c, t in back.items()} == {c: set(t) for c, t in model.models.items()}
    for component, tensors in model.models.items():
        assert all(torch.equal(back[component][name], tensor) for name, tensor in tensors.items())
    again = to_single_file(back, layout)
    assert again.keys() == single.keys() and all(torch.equal(again[name], single[name]) for name in single)


def test_diffusers_reads_the_same_tensors_from_the_single_file(small_folder: Path, tmp_path: Path) -> None:
    from repro.tensorfile import write_tensors

    numerics.fix_torch()
    model = read_folder(small_folder)
    path = tmp_path / "model.safetensors"
    write_tensors(path, to_single_file(model.models, Layout(Architecture.from_configs(model.configs))))
    options = {"local_files_only": True, "torch_dtype": torch.float16}
    from_file = StableDiffusionXLPipeline.from_single_file(str(path), config=str(small_folder), **options)
    from_folder = StableDiffusionXLPipeline.from_pretrained(small_folder, **options)
    for component in model.models:
        ours, theirs = (getattr(pipeline, component).state_dict() for pipeline in (from_file, from_folder))
        assert ours.keys() == theirs.keys()
        assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_logit_scale_is_the_log_of_100(small_folder: Path) -> None:
    model = read_folder(small_folder)
    scale = to_single_file(model.models, Layout(Architecture.from_configs(model.configs)))[LOGIT_SCALE]
    assert scale.shape == () and scale.dtype == torch.float16
    assert scale.item() == pytest.approx(4.6052, abs=2e-3)


@pytest.mark.golden
def test_every_module_of_kohyas_sdxl_lokr_has_a_place_of_its_own(
    golden: Path, real_sdxl: tuple[dict[str, Tensors], Architecture]
) -> None:
    keys = json.loads((golden / "train" / "lokr_keys_sdxl.json").read_text())["keys"]
    single = to_single_file(real_sdxl[0], Layout())
    places = lokr_places([name for name, tensor in single.items() if tensor.ndim > 1], Layout())
    names = {key.split(".")[0] for key in keys}
    assert len(names) == 1052 and names <= places.keys()
    assert len({(places[name].name, places[name].part) for name in names}) == 1052
    for name in names:
        w1, w2 = keys[f"{name}.lokr_w1"], keys[f"{name}.lokr_w2"]
        target = list(single[places[name].name].shape)
        if places[name].form == "rows":
            target[0] //= 3
        assert [w1[0] * w2[0], w1[1] * w2[1], *w2[2:]] == target


def test_lokr_names_of_one_weight_in_all_spellings() -> None:
    unet = "model.diffusion_model.input_blocks.7.1.transformer_blocks.9.attn1.to_q.weight"
    clip_l = "conditioner.embedders.0.transformer.text_model.encoder.layers.3.mlp.fc1.weight"
    in_proj = "conditioner.embedders.1.model.transformer.resblocks.31.attn.in_proj_weight"
    projection = "conditioner.embedders.1.model.text_projection"
    vae = "first_stage_model.encoder.mid.attn_1.q.weight"
    places = lokr_places([unet, clip_l, in_proj, projection, vae], Layout())
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


def test_a_tensor_without_a_place_is_named(small_folder: Path) -> None:
    model = read_folder(small_folder)
    layout = Layout(Architecture.from_configs(model.configs))
    model.models["unet"]["down_blocks.0.motion_modules.0.proj_in.weight"] = torch.zeros(2, 2)
    with pytest.raises(StageError, match=r"unet.*down_blocks\.0\.motion_modules\.0\.proj_in\.weight"):
        to_single_file(model.models, layout)
    with pytest.raises(StageError, match="cond_stage_model"):
        to_diffusers({"cond_stage_model.transformer.x": torch.zeros(1)}, layout)


def test_a_missing_part_of_in_proj_is_named(small_folder: Path) -> None:
    model = read_folder(small_folder)
    del model.models["text_encoder_2"]["text_model.encoder.layers.1.self_attn.k_proj.weight"]
    with pytest.raises(StageError, match=r"resblocks\.1\.attn\.in_proj_weight"):
        to_single_file(model.models, Layout(Architecture.from_configs(model.configs)))


def test_component_of_a_name() -> None:
    assert component_of("model.diffusion_model.out.2.bias") == "unet"
    assert component_of("conditioner.embedders.1.model.ln_final.bias") == "text_encoder_2"
    assert component_of("alphas_cumprod") is None


def test_rounding_is_to_nearest_even() -> None:
    ties = torch.tensor([2049.0, 2051.0, -2049.0])
    assert round_to(ties, torch.float16, "x").tolist() == [2048.0, 2052.0, -2048.0]
