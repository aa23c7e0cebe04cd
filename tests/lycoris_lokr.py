"""LoKr files made by lycoris-lora itself, for tests: its own network, its own saver."""

from pathlib import Path

from repro.randomness import seed_for

import torch
from diffusers import StableDiffusionXLPipeline

# LyCORIS' stock presets name layers twice on a diffusers UNet and fail; classes are called as in diffusers and transformers.
PRESET = """
enable_conv = true
unet_target_module = ["Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D"]
unet_target_name = ["conv_in"]
text_encoder_target_module = ["CLIPAttention", "CLIPMLP"]
text_encoder_target_name = ["text_projection"]
[name_algo_map]
[module_algo_map.Attention]
algo = "lokr"
factor = 4
[module_algo_map.FeedForward]
algo = "lokr"
factor = 2
[module_algo_map.ResnetBlock2D]
algo = "lokr"
factor = 8
[module_algo_map.CLIPMLP]
algo = "lokr"
factor = 3
"""
FULL_MATRIX_DIM = 100_000


def write_lycoris_lokr(
    pipeline: StableDiffusionXLPipeline, path: Path, seed: int, dim: int = FULL_MATRIX_DIM, dtype: torch.dtype = torch.float32
) -> torch.nn.Module:
    """Put a LyCORIS LoKr network of random weights on the pipeline's UNet and text encoders and save it to `path`.

    Returns the network, applied: the pipeline's modules now answer with it. A `dim` of 2 or so gives low-rank modules.
    """
    from lycoris.kohya import create_network

    preset = path.with_suffix(".toml")
    preset.write_text(PRESET)
    text_encoders = [pipeline.text_encoder, pipeline.text_encoder_2]
    with torch.random.fork_rng(devices=[]):
        network = create_network(
            1.0,
            dim,
            1,
            pipeline.vae,
            text_encoders,
            pipeline.unet,
            preset=str(preset),
            algo="lokr",
            factor="6",
            bypass_mode=False,
        )
    network.apply_to(text_encoders, pipeline.unet, True, True)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            draw = torch.Generator().manual_seed(seed_for(seed, "lycoris", name))
            parameter.copy_((torch.rand(parameter.shape, generator=draw) - 0.5) * 0.4)
    network.save_weights(str(path), dtype, {})
    preset.unlink()
    return network.eval()
