"""The written-out shapes against the modules that diffusers and transformers build from the same configs."""

import json
from pathlib import Path
from typing import Any

from repro.errors import StageError

import pytest
from small_sdxl import write_small_sdxl

from checkpoints.sdxl_shapes import expected_shapes
from planning.sdxl_architecture import meta_modules, real_sdxl_configs

COMPONENTS = ("unet", "text_encoder", "text_encoder_2", "vae")


def read_configs(folder: Path) -> dict[str, dict[str, Any]]:
    return {component: json.loads((folder / component / "config.json").read_text()) for component in COMPONENTS}


def modules_shapes(configs: dict[str, dict[str, Any]]) -> dict[str, dict[str, tuple[int, ...]]]:
    modules = meta_modules(configs)
    return {component: {name: tuple(t.shape) for name, t in module.state_dict().items()} for component, module in modules.items()}


@pytest.mark.parametrize("model", ["real", "small", "sample"])
def test_names_and_shapes_are_those_of_the_modules(model: str, tmp_path: Path) -> None:
    if model == "real":
        configs = real_sdxl_configs()
    else:
        configs = read_configs(write_small_sdxl(tmp_path / "small", seed=1) if model == "small" else Path("models/sample-base"))
    assert expected_shapes(configs, "FOLDER") == modules_shapes(configs)


def test_other_forms_of_the_configs() -> None:
    configs = real_sdxl_configs()
    configs["unet"] |= {"transformer_layers_per_block": 3, "use_linear_projection": False, "layers_per_block": 1}
    configs["vae"] |= {"block_out_channels": [64, 64], "down_block_types": ["D"] * 2, "up_block_types": ["U"] * 2}
    modules = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    assert expected_shapes(configs, "FOLDER") == modules_shapes(configs | {"vae": configs["vae"] | modules})


def test_a_config_without_a_key_names_the_folder_and_the_key() -> None:
    configs = real_sdxl_configs()
    del configs["unet"]["cross_attention_dim"]
    with pytest.raises(StageError, match=r"^FOLDER: a config\.json is not as an SDXL model's: KeyError\('cross_attention_dim'\)"):
        expected_shapes(configs, "FOLDER")
