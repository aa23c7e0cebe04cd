"""The written-out shapes against the modules that diffusers and transformers build from the same configs."""

import json
from pathlib import Path
from typing import Any

from repro.errors import StageError

import pytest
from small_cascade import write_small_cascade

from checkpoints.cascade_shapes import expected_shapes
from planning.cascade_architecture import meta_modules, real_decoder_configs, real_prior_configs


def modules_shapes(configs: dict[str, dict[str, Any]]) -> dict[str, dict[str, tuple[int, ...]]]:
    return {
        component: {name: tuple(tensor.shape) for name, tensor in module.state_dict().items() if tensor.is_floating_point()}
        for component, module in meta_modules(configs).items()
    }


def test_real_stage_c_has_its_3_6_billion_parameters() -> None:
    configs = real_prior_configs()
    assert expected_shapes(configs, "FOLDER") == modules_shapes(configs)
    modules = meta_modules(configs)
    assert sum(parameter.numel() for parameter in modules["prior"].parameters()) == 3_589_103_632


def test_real_stage_b() -> None:
    configs = real_decoder_configs()
    assert expected_shapes(configs, "FOLDER") == modules_shapes(configs)


@pytest.mark.parametrize(
    "part, components", [(".", ("text_encoder", "prior", "effnet")), ("decoder", ("text_encoder", "decoder", "vqgan"))]
)
def test_small_models(tmp_path: Path, part: str, components: tuple[str, ...]) -> None:
    folder = write_small_cascade(tmp_path / "model", seed=1) / part
    configs = {component: json.loads((folder / component / "config.json").read_text()) for component in components}
    assert expected_shapes(configs, "FOLDER") == modules_shapes(configs)


def test_three_levels_without_attention_and_with_repeated_mappers() -> None:
    configs = real_prior_configs()
    configs["prior"] |= {
        "block_out_channels": [8, 16, 32],
        "num_attention_heads": [-1, 2, 2],
        "down_num_layers_per_block": [1, 2, 3],
        "up_num_layers_per_block": [4, 2, 1],
        "down_blocks_repeat_mappers": [1, 2, 3],
        "up_blocks_repeat_mappers": [4, 1, 2],
        "block_types_per_layer": [["SDCascadeTimestepBlock"], ["SDCascadeResBlock"], ["SDCascadeAttnBlock", "SDCascadeResBlock"]],
        "switch_level": [True, False],
        "kernel_size": 5,
        "clip_image_in_channels": None,
        "dropout": [0.0, 0.0, 0.0],
    }
    assert expected_shapes(configs, "FOLDER") == modules_shapes(configs)


@pytest.mark.parametrize("component, key", [("prior", "conditioning_dim"), ("text_encoder", "hidden_size"), ("effnet", "stages")])
def test_a_config_without_a_key_names_the_folder_and_the_key(component: str, key: str) -> None:
    configs = real_prior_configs()
    configs[component] = {name: value for name, value in configs[component].items() if name != key}
    with pytest.raises(StageError, match=rf"^FOLDER: a config\.json is not as a Stable Cascade model's: .*{key}"):
        expected_shapes(configs, "FOLDER")
