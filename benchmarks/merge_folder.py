"""Make a diffusers folder of random weights for benchmarks/merge.py: SDXL in its widths and with all its kinds of module,
but fewer of them, 730 million weights.

    python benchmarks/merge_folder.py FOLDER

A process of its own, because diffusers and transformers tell the names and shapes.
"""

import os
import shutil
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from merge_data import Weights, save_once
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

SAMPLE_BASE = Path(__file__).resolve().parent.parent / "models" / "sample-base"
COPIED = ("model_index.json", "scheduler", "tokenizer", "tokenizer_2")
SEED = 5


def main(target: str) -> None:
    folder, weights = Path(target), Weights(SEED)
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for name in COPIED:
        source = SAMPLE_BASE / name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, unfinished / name)
    for component, module in modules_without_memory().items():
        of_diffusers = hasattr(module, "save_config")
        (module.save_config if of_diffusers else module.config.save_pretrained)(unfinished / component)
        file = "diffusion_pytorch_model.safetensors" if of_diffusers else "model.safetensors"
        shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        save_once(unfinished / component / file, shapes, weights)
    os.replace(unfinished, folder)


def modules_without_memory() -> dict[str, torch.nn.Module]:
    with torch.device("meta"):
        return {
            "unet": UNet2DConditionModel(
                sample_size=128,
                block_out_channels=(320, 640, 1280),
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                layers_per_block=1,
                transformer_layers_per_block=(1, 1, 1),
                attention_head_dim=(5, 10, 20),
                cross_attention_dim=2048,
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=256,
                projection_class_embeddings_input_dim=2816,
            ),
            "text_encoder": CLIPTextModel(text_config(768, heads=12, activation="quick_gelu")),
            "text_encoder_2": CLIPTextModelWithProjection(text_config(1280, heads=20, activation="gelu")),
            "vae": AutoencoderKL(
                sample_size=1024,
                block_out_channels=(128, 256, 512, 512),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2,
            ),
        }


def text_config(width: int, heads: int, activation: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=4,
        num_attention_heads=heads,
        hidden_act=activation,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
