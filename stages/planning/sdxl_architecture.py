"""SDXL's configs at their full size, as far as they decide names and shapes, and modules built from them without memory."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection


def real_sdxl_configs() -> dict[str, dict[str, Any]]:
    """What decides shapes in the configs of stabilityai/stable-diffusion-xl-base-1.0."""
    return {
        "unet": {
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": [320, 640, 1280],
            "layers_per_block": 2,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "transformer_layers_per_block": [1, 2, 10],
            "attention_head_dim": [5, 10, 20],
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        "text_encoder": _clip(768, 12),
        "text_encoder_2": _clip(1280, 32) | {"projection_dim": 1280},
        "vae": {
            "in_channels": 3,
            "out_channels": 3,
            "latent_channels": 4,
            "layers_per_block": 2,
            "block_out_channels": [128, 256, 512, 512],
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
        },
    }


def _clip(width: int, layers: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "vocab_size": 49408,
        "max_position_embeddings": 77,
    }


def meta_modules(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, torch.nn.Module]:
    with torch.device("meta"):
        return {
            "unet": UNet2DConditionModel.from_config(configs["unet"]),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**configs["text_encoder"])),
            "text_encoder_2": CLIPTextModelWithProjection(CLIPTextConfig(**configs["text_encoder_2"])),
            "vae": AutoencoderKL.from_config(configs["vae"]),
        }


def write_real_sdxl_configs(folder: Path, tokenizers: Path) -> Path:
    """A diffusers folder of SDXL without weights: configs, and tokenizers and scheduler of another folder. Returns `folder`."""
    classes = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
    for part, config in real_sdxl_configs().items():
        (folder / part).mkdir(parents=True)
        named = config | ({"_class_name": classes[part].__name__} if part in classes else {})
        (folder / part / "config.json").write_text(json.dumps(named))
    for part in ("tokenizer", "tokenizer_2", "scheduler"):
        (folder / part).symlink_to((tokenizers / part).resolve())
    return folder
