"""Every tensor that the configs of an SDXL diffusers folder call for: its name and shape.

Sources: UNet2DConditionModel and AutoencoderKL of diffusers 0.39, CLIPTextModel of transformers 4.57, as far as SDXL's
configs use them. Written out, because building those classes takes seconds and more memory than a merge may have.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from repro.errors import StageError

from checkpoints.shapes import Named, Shape, layer, text_encoder, text_projection


def expected_shapes(configs: Mapping[str, Mapping[str, Any]], folder: str) -> dict[str, dict[str, Shape]]:
    """{component: {tensor: shape}}; text encoders in the older spelling, without position ids.

    Raises:
        StageError: a config lacks a key; names `folder`.
    """
    try:
        return {
            "unet": dict(_unet(configs["unet"])),
            "text_encoder": dict(text_encoder(configs["text_encoder"])),
            "text_encoder_2": dict(text_encoder(configs["text_encoder_2"])) | dict(text_projection(configs["text_encoder_2"])),
            "vae": dict(_vae(configs["vae"])),
        }
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise StageError(f"{folder}: a config.json is not as an SDXL model's: {error!r}") from None


def _resnet(name: str, taken: int, given: int, time: int = 0) -> Named:
    yield from layer(f"{name}.norm1", taken)
    yield from layer(f"{name}.conv1", given, taken, 3, 3)
    if time:
        yield from layer(f"{name}.time_emb_proj", given, time)
    yield from layer(f"{name}.norm2", given)
    yield from layer(f"{name}.conv2", given, given, 3, 3)
    if taken != given:
        yield from layer(f"{name}.conv_shortcut", given, taken, 1, 1)


def _transformer(name: str, width: int, depth: int, cross: int, linear: bool) -> Named:
    yield from layer(f"{name}.norm", width)
    for projection in ("proj_in", "proj_out"):
        yield from layer(f"{name}.{projection}", width, width, *(() if linear else (1, 1)))
    for i in range(depth):
        block = f"{name}.transformer_blocks.{i}"
        for norm in ("norm1", "norm2", "norm3"):
            yield from layer(f"{block}.{norm}", width)
        for attention, context in (("attn1", width), ("attn2", cross)):
            yield from layer(f"{block}.{attention}.to_q", width, width, bias=False)
            yield from layer(f"{block}.{attention}.to_k", width, context, bias=False)
            yield from layer(f"{block}.{attention}.to_v", width, context, bias=False)
            yield from layer(f"{block}.{attention}.to_out.0", width, width)
        yield from layer(f"{block}.ff.net.0.proj", 8 * width, width)  # GEGLU: gate and value of 4 times the width
        yield from layer(f"{block}.ff.net.2", width, 4 * width)


def _unet(config: Mapping[str, Any]) -> Named:
    widths: Sequence[int] = config["block_out_channels"]
    layers, cross, linear = config["layers_per_block"], config["cross_attention_dim"], config["use_linear_projection"]
    depths = config["transformer_layers_per_block"]
    depths = [depths] * len(widths) if isinstance(depths, int) else depths
    time = 4 * widths[0]
    yield from layer("conv_in", widths[0], config["in_channels"], 3, 3)
    for embedding, taken in (("time", widths[0]), ("add", config["projection_class_embeddings_input_dim"])):
        yield from layer(f"{embedding}_embedding.linear_1", time, taken)
        yield from layer(f"{embedding}_embedding.linear_2", time, time)
    skips = [widths[0]]
    for i, (kind, width, depth) in enumerate(zip(config["down_block_types"], widths, depths, strict=True)):
        block = f"down_blocks.{i}"
        for j in range(layers):
            yield from _resnet(f"{block}.resnets.{j}", skips[-1], width, time)
            if "CrossAttn" in kind:
                yield from _transformer(f"{block}.attentions.{j}", width, depth, cross, linear)
            skips.append(width)
        if i < len(widths) - 1:
            yield from layer(f"{block}.downsamplers.0.conv", width, width, 3, 3)
            skips.append(width)
    here = widths[-1]
    for j in (0, 1):
        yield from _resnet(f"mid_block.resnets.{j}", here, here, time)
    yield from _transformer("mid_block.attentions.0", here, depths[-1], cross, linear)
    for i, (kind, width, depth) in enumerate(zip(config["up_block_types"], widths[::-1], depths[::-1], strict=True)):
        block = f"up_blocks.{i}"
        for j in range(layers + 1):
            yield from _resnet(f"{block}.resnets.{j}", here + skips.pop(), width, time)
            if "CrossAttn" in kind:
                yield from _transformer(f"{block}.attentions.{j}", width, depth, cross, linear)
            here = width
        if i < len(widths) - 1:
            yield from layer(f"{block}.upsamplers.0.conv", width, width, 3, 3)
    yield from layer("conv_norm_out", widths[0])
    yield from layer("conv_out", config["out_channels"], widths[0], 3, 3)


def _vae(config: Mapping[str, Any]) -> Named:
    widths, layers, latent = config["block_out_channels"], config["layers_per_block"], config["latent_channels"]
    yield from layer("encoder.conv_in", widths[0], config["in_channels"], 3, 3)
    yield from _vae_levels("encoder.down_blocks", config["down_block_types"], [widths[0], *widths], layers, "downsamplers")
    yield from _vae_middle("encoder", widths[-1])
    yield from layer("encoder.conv_norm_out", widths[-1])
    yield from layer("encoder.conv_out", 2 * latent, widths[-1], 3, 3)
    yield from layer("quant_conv", 2 * latent, 2 * latent, 1, 1)
    yield from layer("post_quant_conv", latent, latent, 1, 1)
    yield from layer("decoder.conv_in", widths[-1], latent, 3, 3)
    yield from _vae_middle("decoder", widths[-1])
    upwards = [widths[-1], *widths[::-1]]
    yield from _vae_levels("decoder.up_blocks", config["up_block_types"], upwards, layers + 1, "upsamplers")
    yield from layer("decoder.conv_norm_out", widths[0])
    yield from layer("decoder.conv_out", config["out_channels"], widths[0], 3, 3)


def _vae_levels(name: str, kinds: Sequence[str], widths: Sequence[int], layers: int, samplers: str) -> Named:
    """Encoder or decoder, level by level: `widths` before the first and after each of them."""
    for i, (_, (taken, given)) in enumerate(zip(kinds, pairwise(widths), strict=True)):
        for j in range(layers):
            yield from _resnet(f"{name}.{i}.resnets.{j}", given if j else taken, given)
        if i < len(widths) - 2:
            yield from layer(f"{name}.{i}.{samplers}.0.conv", given, given, 3, 3)


def _vae_middle(half: str, width: int) -> Named:
    """The middle block of encoder or decoder."""
    for j in (0, 1):
        yield from _resnet(f"{half}.mid_block.resnets.{j}", width, width)
    attention = f"{half}.mid_block.attentions.0"
    yield from layer(f"{attention}.group_norm", width)
    for projection in ("to_q", "to_k", "to_v", "to_out.0"):
        yield from layer(f"{attention}.{projection}", width, width)
