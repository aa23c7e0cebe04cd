"""Stable Cascade's configs at their full size, as far as they decide names and shapes, and modules built from them without
memory."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import StableCascadeUNet
from diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model import PaellaVQModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from families.effnet import EfficientNetEncoder, EffnetConfig

RES, TIME, ATTENTION = "SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"
TEXT_ENCODER = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
}


def real_prior_configs() -> dict[str, dict[str, Any]]:
    """What decides shapes in the configs of stabilityai/stable-cascade-prior, and the image encoder."""
    prior = {
        "in_channels": 16,
        "out_channels": 16,
        "timestep_ratio_embedding_dim": 64,
        "patch_size": 1,
        "conditioning_dim": 2048,
        "block_out_channels": [2048, 2048],
        "num_attention_heads": [32, 32],
        "down_num_layers_per_block": [8, 24],
        "up_num_layers_per_block": [24, 8],
        "down_blocks_repeat_mappers": [1, 1],
        "up_blocks_repeat_mappers": [1, 1],
        "block_types_per_layer": [[RES, TIME, ATTENTION], [RES, TIME, ATTENTION]],
        "clip_text_in_channels": 1280,
        "clip_text_pooled_in_channels": 1280,
        "clip_image_in_channels": 768,
        "clip_seq": 4,
        "effnet_in_channels": None,
        "pixel_mapper_in_channels": None,
        "kernel_size": 3,
        "self_attn": True,
        "timestep_conditioning_type": ["sca", "crp"],
        "switch_level": [False],
    }
    return {"text_encoder": TEXT_ENCODER, "prior": prior, "effnet": EffnetConfig().as_json()}


def real_decoder_configs() -> dict[str, dict[str, Any]]:
    """The same of stabilityai/stable-cascade: stage B; stage A as its class has it."""
    decoder = {
        "in_channels": 4,
        "out_channels": 4,
        "timestep_ratio_embedding_dim": 64,
        "patch_size": 2,
        "conditioning_dim": 1280,
        "block_out_channels": [320, 640, 1280, 1280],
        "num_attention_heads": [-1, -1, 20, 20],
        "down_num_layers_per_block": [2, 6, 28, 6],
        "up_num_layers_per_block": [6, 28, 6, 2],
        "down_blocks_repeat_mappers": [1, 1, 1, 1],
        "up_blocks_repeat_mappers": [3, 3, 2, 2],
        "block_types_per_layer": [[RES, TIME], [RES, TIME], [RES, TIME, ATTENTION], [RES, TIME, ATTENTION]],
        "clip_text_in_channels": None,
        "clip_text_pooled_in_channels": 1280,
        "clip_image_in_channels": None,
        "clip_seq": 4,
        "effnet_in_channels": 16,
        "pixel_mapper_in_channels": 3,
        "kernel_size": 3,
        "dropout": [0.0, 0.0, 0.1, 0.1],
        "self_attn": True,
        "timestep_conditioning_type": ["sca"],
        "switch_level": None,
    }
    vqgan = {
        "in_channels": 3,
        "out_channels": 3,
        "up_down_scale_factor": 2,
        "levels": 2,
        "bottleneck_blocks": 12,
        "embed_dim": 384,
        "latent_channels": 4,
        "num_vq_embeddings": 8192,
        "scale_factor": 0.3764,
    }
    return {"text_encoder": TEXT_ENCODER, "decoder": decoder, "vqgan": vqgan}


def meta_modules(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, torch.nn.Module]:
    make = {
        "text_encoder": lambda config: CLIPTextModelWithProjection(CLIPTextConfig(**config)),
        "prior": StableCascadeUNet.from_config,
        "decoder": StableCascadeUNet.from_config,
        "vqgan": PaellaVQModel.from_config,
        "effnet": lambda config: EfficientNetEncoder(EffnetConfig.from_json(config)),
    }
    with torch.device("meta"):
        return {component: make[component](dict(config)) for component, config in configs.items()}


def write_real_cascade_configs(folder: Path, tokenizers: Path) -> Path:
    """A folder of Stable Cascade without weights: configs, indexes, and tokenizer of another such folder. Returns `folder`."""
    parts = real_prior_configs() | {f"decoder/{part}": config for part, config in real_decoder_configs().items()}
    classes = {"prior": StableCascadeUNet, "decoder/decoder": StableCascadeUNet, "decoder/vqgan": PaellaVQModel}
    for part, config in parts.items():
        (folder / part).mkdir(parents=True)
        named = config | ({"_class_name": classes[part].__name__} if part in classes else {})
        (folder / part / "config.json").write_text(json.dumps(named))
    for pipeline, name in (("", "StableCascadePriorPipeline"), ("decoder", "StableCascadeDecoderPipeline")):
        (folder / pipeline / "model_index.json").write_text(json.dumps({"_class_name": name}))
    (folder / "tokenizer").symlink_to((tokenizers / "tokenizer").resolve())
    return folder
