"""Which layers get a LoKr: of SDXL those, named and shaped as lycoris-lora under sd-scripts saves them."""

import json
from pathlib import Path

from repro.errors import StageError
from repro.params import Lokr

import pytest
import torch

from families import cascade
from planning.sdxl_architecture import meta_modules, real_sdxl_configs
from training.adapters import lokr_size, lokr_specs
from training.lokr_targets import lokr_targets

SAMPLERS = r"lora_unet_(input_blocks_\d+_0_op|output_blocks_\d+_\d_conv)"


def factors(attention: int, feed_forward: int, resnet: int, projection: int, *text: int, **by_name: int | None) -> Lokr:
    return Lokr(
        unet_attention=attention,
        unet_feed_forward=feed_forward,
        unet_resnet=resnet,
        unet_projection=projection,
        text_attention=text[0],
        text_mlp=text[1],
        by_name=by_name,
    )


@pytest.fixture(scope="module")
def sdxl() -> dict[str, torch.nn.Module]:
    return meta_modules(real_sdxl_configs())


@pytest.mark.golden
def test_names_and_shapes_are_those_of_lycoris_under_sd_scripts(sdxl: dict, golden: Path) -> None:
    """788 + 264 layers; its map knew no Downsample2D and Upsample2D, which got the default factor."""
    reference = json.loads((golden / "train" / "lokr_keys_sdxl.json").read_text())
    targets = lokr_targets("sdxl", sdxl, factors(8, 8, 8, 4, 8, 8, **{SAMPLERS: 4}), train_text=True)
    by_group = [sum(target.group == group for target in targets) for group in ("unet", "text")]
    assert by_group == [reference["n_unet_modules"], reference["n_te_modules"]] == [788, 264]
    assert {name: list(spec.shape) for name, spec in lokr_specs(targets, "fp16").items()} == reference["keys"]


def test_text_encoders_come_first_and_only_when_trained(sdxl: dict) -> None:
    lokr = factors(8, 8, 8, 8, 8, 8)
    groups = [target.group for target in lokr_targets("sdxl", sdxl, lokr, train_text=True)]
    assert groups == ["text"] * 264 + ["unet"] * 788
    assert [target.group for target in lokr_targets("sdxl", sdxl, lokr, train_text=False)] == ["unet"] * 788


def test_each_setting_reaches_its_class(sdxl: dict) -> None:
    found = {target.name: target.factor for target in lokr_targets("sdxl", sdxl, factors(2, 3, 4, 5, 6, 7), train_text=True)}
    block = "lora_unet_input_blocks_4_1_transformer_blocks_0_"
    expected = {
        f"{block}attn2_to_out_0": 2, f"{block}ff_net_0_proj": 3, "lora_unet_input_blocks_4_0_skip_connection": 4,
        "lora_unet_input_blocks_3_0_op": 4, "lora_unet_output_blocks_2_2_conv": 4, "lora_unet_input_blocks_4_1_proj_in": 5,
        "lora_te2_text_model_encoder_layers_31_self_attn_q_proj": 6, "lora_te1_text_model_encoder_layers_0_mlp_fc1": 7,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected


def test_names_decide_before_classes_and_the_first_that_matches(sdxl: dict) -> None:
    by_name = {".*attn1_to_q": None, ".*attn._to_[qk]": 16, "lora_te1_.*": None}
    targets = lokr_targets("sdxl", sdxl, factors(2, 2, 2, 2, 2, 2, **by_name), train_text=True)
    found = {target.name: target.factor for target in targets}
    block = "lora_unet_middle_block_1_transformer_blocks_0_"
    assert f"{block}attn1_to_q" not in found and not any(name.startswith("lora_te1") for name in found)
    assert [found[block + part] for part in ("attn1_to_k", "attn2_to_q", "attn2_to_v")] == [16, 16, 2]


@pytest.mark.parametrize("pattern", ["to_q", "lora_unet_", ".*attn3.*"])
def test_a_pattern_that_matches_no_whole_name_is_refused(sdxl: dict, pattern: str) -> None:
    with pytest.raises(StageError, match=r"train\.lokr\.by_name: '.*' matches the whole name of no layer"):
        lokr_targets("sdxl", sdxl, factors(2, 2, 2, 2, 2, 2, **{pattern: 4}), train_text=True)


def test_a_text_pattern_is_no_typing_error_where_text_encoders_are_not_trained(sdxl: dict) -> None:
    lokr_targets("sdxl", sdxl, factors(2, 2, 2, 2, 2, 2, **{"lora_te1_.*": 4}), train_text=False)


@pytest.mark.parametrize(
    ("lokr", "numbers"),
    [
        (factors(8, 8, 8, 8, 8, 8), 51_202_432),
        (factors(2, 4, 8, 8, 4, 4), 366_093_952),
        (factors(2, 4, 4, 4, 8, 4), 372_499_072),
        (factors(4, 2, 8, 4, 8, 8), 385_054_096),
    ],
)
def test_a_factor_map_of_the_cards_is_below_800_megabytes(sdxl: dict, lokr: Lokr, numbers: int) -> None:
    """The Delta and Epsilon cards: "under 800 MB", factors 2 to 8."""
    size = lokr_size("sdxl", sdxl, lokr, True, "fp16")
    assert size.numbers == numbers
    assert size.tensor_bytes == 2 * numbers + 2 * 1052 < 800e6
    assert lokr_size("sdxl", sdxl, lokr, True, "fp32").tensor_bytes == 2 * size.tensor_bytes
    assert lokr_size("sdxl", sdxl, lokr, False, "fp16").numbers < numbers


def test_layers_of_stable_cascade_have_comfyuis_names_and_no_depthwise_one_is_among_them(cascade_inputs: Path) -> None:
    with torch.device("meta"):
        modules = cascade.empty_modules(cascade_inputs / "base")
    targets = lokr_targets("cascade", modules, factors(2, 3, 4, 5, 6, 7), train_text=True)
    found = {target.name: target.factor for target in targets}
    assert len(found) == len(targets) and [target.group for target in targets] == sorted(target.group for target in targets)
    text, block = "lora_prior_te_text_model_encoder_layers_0_", "lora_prior_unet_down_blocks_0_"
    expected = {
        f"{text}self_attn_q_proj": 6, f"{text}mlp_fc1": 7, f"{block}0_channelwise_0": 4, f"{block}1_mapper": 5,
        f"{block}2_attention_attn_to_q": 2, f"{block}2_attention_attn_out_proj": 2, f"{block}2_kv_mapper_1": 2,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    grouped = [m for m in modules["prior"].modules() if isinstance(m, torch.nn.Conv2d) and m.groups > 1]
    assert grouped and not {id(layer) for layer in grouped} & {id(target.layer) for target in targets}
