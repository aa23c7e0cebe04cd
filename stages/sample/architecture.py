"""The sample model's parts: SDXL's classes and connections at a few million parameters.

What is SDXL's own (stabilityai/stable-diffusion-xl-base-1.0's config files): the classes, two text
encoders with penultimate states side by side, text_time conditioning by pooled text and six sizes,
no attention at the highest resolution, linear projections, the noise schedule. What is smaller:
widths, depths, and a VAE of factor 4, so that 64x64 pictures have 16x16 latents.

Random weights are drawn parameter by parameter, each from its own generator keyed by its name, in
the distributions of the modules' own initialisation; no weight depends on the order of creation.
"""

import math
from typing import Any

from repro.randomness import seed_for

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

RESOLUTION = 64
VAE_FACTOR = 4
# diffusers' single-file loader tells the text encoders apart by their widths, and expects the second one's
# projection to be as wide as itself.
TEXT_WIDTHS = (32, 40)
POOLED_WIDTH = TEXT_WIDTHS[1]
SIZE_EMBEDDING = 32

VAE: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "block_out_channels": (16, 32, 32),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": RESOLUTION,
    "scaling_factor": 1.0,
}

UNET: dict[str, Any] = {
    "sample_size": RESOLUTION // VAE_FACTOR,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (64, 128),
    "layers_per_block": 1,
    "transformer_layers_per_block": (1, 1),
    # As in SDXL's file, these are numbers of heads; each head is 32 wide.
    "attention_head_dim": (2, 4),
    "cross_attention_dim": sum(TEXT_WIDTHS),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": SIZE_EMBEDDING,
    "projection_class_embeddings_input_dim": POOLED_WIDTH + 6 * SIZE_EMBEDDING,
}

TEXT: dict[str, Any] = {
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    # The context is the penultimate layer's output, so 3 layers give tags two to gather their tokens in.
    "num_hidden_layers": 3,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
}
TEXT_1 = {
    **TEXT,
    "hidden_size": 32,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "hidden_act": "quick_gelu",
    "pad_token_id": 49407,
}
TEXT_2 = {
    **TEXT, "hidden_size": TEXT_WIDTHS[1], "intermediate_size": 160, "num_attention_heads": 4, "hidden_act": "gelu",
    "projection_dim": POOLED_WIDTH, "pad_token_id": 0,
}  # fmt: skip

SCHEDULER: dict[str, Any] = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "interpolation_type": "linear",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "use_karras_sigmas": False,
}


def make_vae(seed: int) -> AutoencoderKL:
    return open_colour_path(initialise(AutoencoderKL(**VAE), seed, "vae"))


def make_unet(seed: int) -> UNet2DConditionModel:
    return initialise(UNet2DConditionModel(**UNET), seed, "unet")


def make_text_encoders(seed: int) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    first = CLIPTextModel(CLIPTextConfig(**TEXT_1))
    second = CLIPTextModelWithProjection(CLIPTextConfig(**TEXT_2))
    return initialise(first, seed, "text_encoder"), initialise(second, seed, "text_encoder_2")


def make_scheduler() -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler(**SCHEDULER)


@torch.no_grad()
def initialise(model: nn.Module, seed: int, component: str) -> nn.Module:
    """Redraw all parameters of `model`, in place, from (seed, component, parameter name)."""
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix=module_name, recurse=False):
            generator = torch.Generator().manual_seed(seed_for(seed, "init", component, name))
            draw_parameter(parameter, module, name, generator, getattr(model, "config", None))
    return model


@torch.no_grad()
def open_colour_path(vae: AutoencoderKL) -> AutoencoderKL:
    """Let colours through the untrained VAE, in place: the first channels carry red, green, blue and their
    negatives (a SiLU lets only one sign pass), downsamplers average, residual branches start at zero.

    Random weights learn brightness first and colour only after some thousand updates; from here the
    first update already reconstructs a blurred picture.
    """
    for name, module in vae.named_modules():
        if name.endswith(("conv2", "to_out.0")):
            module.weight.zero_()
        if not isinstance(module, nn.Conv2d) or name.endswith(("conv1", "conv2")):
            continue
        module.weight.mul_(0.3)
        if name in ("encoder.conv_in", "decoder.conv_in"):
            routes = [(c, c % 3, 1.0 if c < 3 else -1.0) for c in range(6)]
        elif name in ("encoder.conv_out", "decoder.conv_out"):
            routes = [(c % 3, c, 1.0 if c < 3 else -1.0) for c in range(6)]
        elif name in ("quant_conv", "post_quant_conv"):
            routes = [(c, c, 1.0) for c in range(4)]
        else:
            routes = [(c, c, 1.0) for c in range(6)]
        module.weight[sorted({target for target, _, _ in routes})] = 0.0
        for target, source, factor in routes:
            kernel = module.weight[target, source]
            if "downsamplers" in name:
                kernel[:2, :2] = factor / 4
            else:
                kernel[kernel.shape[0] // 2, kernel.shape[1] // 2] = factor
    # Log-variance of the posterior: a standard deviation of 0.14, far below the colours'.
    vae.quant_conv.weight[4:] = 0.0
    vae.quant_conv.bias[4:] = -4.0
    return vae


def draw_parameter(parameter: nn.Parameter, module: nn.Module, name: str, generator: torch.Generator, config: Any) -> None:
    """Fill one parameter as its module's own initialisation would, in distribution.

    Raises:
        TypeError: a kind of module whose initialisation is not known here.
    """
    is_bias = name.endswith("bias")
    if isinstance(module, nn.GroupNorm | nn.LayerNorm):
        parameter.fill_(0.0 if is_bias else 1.0)
    elif isinstance(config, CLIPTextConfig):
        if is_bias:
            parameter.zero_()
        else:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * clip_deviation(name, config))
    elif isinstance(module, nn.Conv2d | nn.Linear):
        # nn.Conv2d and nn.Linear: uniform within 1/sqrt(fan-in), for the weight and the bias alike.
        bound = 1.0 / math.sqrt(module.weight[0].numel())
        parameter.copy_((torch.rand(parameter.shape, generator=generator) * 2 - 1) * bound)
    else:
        raise TypeError(f"{name}: no initialisation for {type(module).__name__}")


def clip_deviation(name: str, config: CLIPTextConfig) -> float:
    """Standard deviation of a CLIP text weight at the start (transformers' CLIPPreTrainedModel, from OpenAI's CLIP)."""
    width, depth_scale = config.hidden_size, 1.0 / math.sqrt(2 * config.num_hidden_layers)
    if "embedding" in name:
        return 0.02
    if "q_proj" in name or "k_proj" in name or "v_proj" in name or "fc2" in name:
        return depth_scale / math.sqrt(width)
    if "fc1" in name:
        return 1.0 / math.sqrt(2 * width)
    if "out_proj" in name or "text_projection" in name:
        return 1.0 / math.sqrt(width)
    raise TypeError(f"{name}: not a weight of a CLIP text encoder")
