"""The parts of the sample's Stable Cascade: the real classes at a few million parameters.

What is the published model's own (stabilityai/stable-cascade and stable-cascade-prior, their config files): the classes, the
blocks of each stage and what they are told, the epsilon target, stage C's two levels without a change of size, image latents of
deviation 1. What is smaller: widths and depths, the image encoder's stride of 8 in place of 32 (64x64 pictures have 8x8
latents) and its 4 channels in place of 16 (see below), stage C's attention, which sees the text only, and stage A, which is
exact here: a linear code of each 2x2 pixels, set by hand.

Random weights are drawn as those of sample/architecture.py: each parameter by its own name.
"""

import math
from typing import Any

from repro.randomness import seed_for

import torch
from diffusers import StableCascadeUNet
from diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model import PaellaVQModel
from torch import nn

from families.effnet import EfficientNetEncoder, EffnetConfig, EffnetStage
from sample.architecture import POOLED_WIDTH, draw_parameter

RESOLUTION = 64
# 4 channels and not 16: the fewer numbers tell a picture, the less noise hides it, so that text decides over more of the schedule
# (a reading of the losses, see docs/stable-cascade.md; no run compares the two with all else equal).
EFFNET = EffnetConfig(
    stem_channels=24,
    stages=(
        EffnetStage("fused", 1, 1, 24, 1),
        EffnetStage("fused", 4, 2, 48, 1),
        EffnetStage("fused", 4, 2, 64, 2),
        EffnetStage("depthwise", 4, 1, 96, 2),
    ),
    head_channels=192,
    latent_channels=4,
)
# The CLIP image embedding that the published stage C can take; training and sampling give zeros.
IMAGE_EMBEDDING = 32


def draw_weights(model: nn.Module, seed: int, component: str) -> nn.Module:
    """Draw the weights of all convolutions and linear layers of `model`, in place, from (seed, component, parameter name);
    norms stay at ones and zeros, and what a class sets to zero stays zero."""
    with torch.no_grad():
        for module_name, module in model.named_modules():
            if not isinstance(module, nn.Conv2d | nn.Linear):
                continue
            for name, parameter in module.named_parameters(prefix=module_name, recurse=False):
                generator = torch.Generator().manual_seed(seed_for(seed, "init", component, name))
                draw_parameter(parameter, module, name, generator, None)
    return model


def make_effnet(seed: int) -> EfficientNetEncoder:
    return draw_weights(EfficientNetEncoder(EFFNET), seed, "effnet")


# Stage A: a picture's 2x2 pixels to 6 numbers, the luminance in four ways and two colours once.
STAGE_A: dict[str, Any] = {
    "up_down_scale_factor": 2,
    "levels": 1,
    "bottleneck_blocks": 1,
    "embed_dim": 12,
    "latent_channels": 6,
    "num_vq_embeddings": 8,
    "scale_factor": 1.0,
}
# Orthonormal: averages and differences of 2x2 pixels (Haar), grey and two colours across red, green, blue.
HAAR = ((1, 1, 1, 1), (1, -1, 1, -1), (1, 1, -1, -1), (1, -1, -1, 1))
COLOURS = ((1, 1, 1), (1, 0, -1), (1, -2, 1))
# (colour, average or difference) of each latent channel.
CODE = ((0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (2, 0))

RESIDUAL, TIMESTEP, ATTENTION = "SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"
STAGE_B: dict[str, Any] = {
    "in_channels": STAGE_A["latent_channels"],
    "out_channels": STAGE_A["latent_channels"],
    "timestep_ratio_embedding_dim": 64,
    "patch_size": 2,
    "conditioning_dim": 64,
    "block_out_channels": (80, 128),
    "num_attention_heads": (-1, 4),
    "down_num_layers_per_block": (1, 2),
    "up_num_layers_per_block": (2, 1),
    "block_types_per_layer": ((RESIDUAL, TIMESTEP), (RESIDUAL, TIMESTEP, ATTENTION)),
    "clip_text_pooled_in_channels": POOLED_WIDTH,
    "effnet_in_channels": EFFNET.latent_channels,
    "dropout": (0.0, 0.0),
    "timestep_conditioning_type": ("sca",),
}
STAGE_C: dict[str, Any] = {
    "in_channels": EFFNET.latent_channels,
    "out_channels": EFFNET.latent_channels,
    "timestep_ratio_embedding_dim": 64,
    "patch_size": 1,
    "conditioning_dim": 160,
    "block_out_channels": (160, 160),
    "num_attention_heads": (4, 4),
    "down_num_layers_per_block": (1, 2),
    "up_num_layers_per_block": (2, 1),
    "block_types_per_layer": ((RESIDUAL, TIMESTEP, ATTENTION),) * 2,
    "clip_text_in_channels": POOLED_WIDTH,
    "clip_text_pooled_in_channels": POOLED_WIDTH,
    "clip_image_in_channels": IMAGE_EMBEDDING,
    "clip_seq": 8,
    "dropout": (0.0, 0.0),
    # Positions reach each other through the convolutions of so small a picture; attention is for the text alone.
    "self_attn": False,
    "switch_level": (False,),
}
# The constants that ride beside the noise through every norm, in units of the noise. The larger, the more exactly the noise
# passes, and the less of their own input the blocks see: stage C has much to learn.
CONSTANT_B, CONSTANT_C = 6.5, 1.5


def make_stage_a() -> PaellaVQModel:
    """The linear code of 2x2 pixels and its inverse; the residual blocks are shut, as the class makes them."""
    model = PaellaVQModel(**STAGE_A)
    code = torch.zeros(6, 12)
    for channel, (colour, haar) in enumerate(CODE):
        length = math.sqrt(sum(c * c for c in COLOURS[colour])) * 2.0
        code[channel] = torch.tensor([c * h / length for c in COLOURS[colour] for h in HAAR[haar]])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        pixels_in, (latents_out, norm) = model.in_block[1], model.down_blocks[-1]
        pixels_in.weight.copy_(torch.eye(12).view(12, 12, 1, 1))
        pixels_in.bias.fill_(-0.5)
        latents_out.weight.copy_(code.view(6, 12, 1, 1))
        norm.weight.fill_(1.0)
        # With the norm's 1e-5 a variance of 1.
        norm.running_var.fill_(1.0 - norm.eps)
        model.up_blocks[0][0].weight.copy_(code.T.reshape(12, 6, 1, 1))
        model.out_block[0].weight.copy_(torch.eye(12).view(12, 12, 1, 1))
        model.out_block[0].bias.fill_(0.5)
    return model.eval()


def make_stage_b(seed: int) -> StableCascadeUNet:
    """Stage B, untrained. Its text weights are zero, and stay so while no text is told to it."""
    model = open_noise_path(draw_weights(StableCascadeUNet(**STAGE_B), seed, "stage_b"), CONSTANT_B)
    with torch.no_grad():
        model.clip_txt_pooled_mapper.weight.zero_()
        model.clip_txt_pooled_mapper.bias.zero_()
    return model


def make_stage_c(seed: int) -> StableCascadeUNet:
    return open_noise_path(draw_weights(StableCascadeUNet(**STAGE_C), seed, "stage_c"), CONSTANT_C)


@torch.no_grad()
def open_noise_path(model: StableCascadeUNet, constant: float) -> StableCascadeUNet:
    """Let an untrained model predict its own input as the noise, in place, which at time 1 is right.

    There the samplers multiply an error of the prediction by up to a hundred, and norms on the way forget how large the input
    was: a small model would learn for long what is set here at once. The first channels carry the input and its
    negative, and beside them stand constants, so large that every norm divides by nearly the same. From the first level
    the input reaches the last one through the block that sees both; a GELU passes it with its negative: gelu(x) - gelu(-x) = x.
    All other blocks start at nothing.
    """
    noise, width = model.embedding[1].in_channels, model.config.block_out_channels[0]
    forward, backward = slice(0, noise), slice(noise, 2 * noise)
    signs = torch.ones(width - 2 * noise)
    signs[1::2] = -1.0
    scale = math.sqrt((2 * noise + (width - 2 * noise) * constant**2) / width)

    for module in model.modules():
        kind = type(module).__name__
        if kind == TIMESTEP:
            for parameter in module.parameters():
                parameter.zero_()
        elif kind in (RESIDUAL, ATTENTION):
            last = module.channelwise[-1] if kind == RESIDUAL else module.attention.to_out[0]
            last.weight.zero_()
            last.bias.zero_()

    if hasattr(model, "effnet_mapper"):
        # Its norm gives zeros where the layer before it does and the other channels' mean is zero.
        hint = model.effnet_mapper[2]
        for values in (hint.weight, hint.bias):
            values[: 2 * noise] = 0.0
            values[2 * noise + 1 :: 2] = -values[2 * noise :: 2]
    start, up, end = model.embedding[1], model.up_upscalers[0][-1], model.clf[1]
    up = up.blocks[-1] if hasattr(up, "blocks") else up
    identity = torch.eye(noise)
    for layer in (start, up, end):
        layer.weight.zero_()
        layer.bias.zero_()
    start.weight[forward, :, 0, 0], start.weight[backward, :, 0, 0] = identity, -identity
    start.bias[2 * noise :] = constant * signs
    up.bias[2 * noise :] = constant / scale * signs
    joined = model.up_blocks[-1][0].channelwise
    for target, sign in ((forward, 1.0), (backward, -1.0)):
        joined[0].weight[target] = 0.0
        joined[0].weight[target, width : width + noise] = sign * identity
        joined[0].bias[target] = 0.0
    joined[-1].weight[forward, forward], joined[-1].weight[forward, backward] = identity, -identity
    joined[-1].weight[backward, forward], joined[-1].weight[backward, backward] = -identity, identity
    end.weight[:, forward, 0, 0], end.weight[:, backward, 0, 0] = scale / 2 * identity, -scale / 2 * identity
    return model
