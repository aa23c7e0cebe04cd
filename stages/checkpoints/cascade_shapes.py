"""Every tensor that the configs of Stable Cascade's folders call for: its name and shape.

Sources: StableCascadeUNet (stage C and stage B are of one class) and PaellaVQModel (stage A) of diffusers 0.39, written out for
the reason given in sdxl_shapes.py; the image encoder is our own and cheap to build.
"""

from collections.abc import Mapping
from typing import Any

from repro.errors import StageError

import torch

from checkpoints.shapes import Named, Shape, layer, text_encoder, text_projection
from families.effnet import EfficientNetEncoder, EffnetConfig


def expected_shapes(configs: Mapping[str, Mapping[str, Any]], folder: str) -> dict[str, dict[str, Shape]]:
    """{component: {tensor: shape}}, of the components with a config.

    Raises:
        StageError: a config lacks a key; names `folder`.
    """
    shapes = {"text_encoder": _text_encoder, "prior": _stage, "decoder": _stage, "vqgan": _stage_a, "effnet": _effnet}
    try:
        return {component: dict(of(configs[component])) for component, of in shapes.items() if component in configs}
    except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
        raise StageError(f"{folder}: a config.json is not as a Stable Cascade model's: {error!r}") from None


def _text_encoder(config: Mapping[str, Any]) -> Named:
    yield from text_encoder(config)
    yield from text_projection(config)


def _stage(config: Mapping[str, Any]) -> Named:
    widths, inner = config["block_out_channels"], config["conditioning_dim"]
    levels, patch = range(len(widths)), config["patch_size"] ** 2
    for mapper, taken in (("effnet", config["effnet_in_channels"]), ("pixels", config["pixel_mapper_in_channels"])):
        if taken is not None:
            yield from layer(f"{mapper}_mapper.0", 4 * widths[0], taken, 1, 1)
            yield from layer(f"{mapper}_mapper.2", widths[0], 4 * widths[0], 1, 1)
    yield from layer("clip_txt_pooled_mapper", inner * config["clip_seq"], config["clip_text_pooled_in_channels"])
    if config["clip_text_in_channels"] is not None:
        yield from layer("clip_txt_mapper", inner, config["clip_text_in_channels"])
    if config["clip_image_in_channels"] is not None:
        yield from layer("clip_img_mapper", inner * config["clip_seq"], config["clip_image_in_channels"])
    yield from layer("embedding.1", widths[0], config["in_channels"] * patch, 1, 1)
    for level in levels:
        if level:
            name, strided = f"down_downscalers.{level}.1", config["switch_level"] is None
            shape = (widths[level], widths[level - 1], *((2, 2) if strided else (1, 1)))
            yield from layer(name if strided else f"{name}.blocks.0", *shape)
        yield from _blocks(f"down_blocks.{level}", config, level, config["down_num_layers_per_block"][level], 0)
        yield from _repeat_mappers(f"down_repeat_mappers.{level}", widths[level], config["down_blocks_repeat_mappers"], level)
    for place, level in enumerate(levels[::-1]):
        if level:
            # A transposed convolution has its inputs first, and its bias is as long as its outputs.
            name, strided = f"up_upscalers.{place}.1", config["switch_level"] is None
            if strided:
                yield f"{name}.weight", (widths[level], widths[level - 1], 2, 2)
                yield f"{name}.bias", (widths[level - 1],)
            else:
                yield from layer(f"{name}.blocks.1", widths[level - 1], widths[level], 1, 1)
        skip = widths[level] if level < len(widths) - 1 else 0
        yield from _blocks(f"up_blocks.{place}", config, level, config["up_num_layers_per_block"][place], skip)
        yield from _repeat_mappers(f"up_repeat_mappers.{place}", widths[level], config["up_blocks_repeat_mappers"], place)
    yield from layer("clf.1", config["out_channels"] * patch, widths[0], 1, 1)


def _blocks(name: str, config: Mapping[str, Any], level: int, count: int, skip: int) -> Named:
    """The blocks of one level; the first takes `skip` channels more, those of the way down."""
    width, kinds = config["block_out_channels"][level], list(config["block_types_per_layer"][level]) * count
    for i, kind in enumerate(kinds):
        block = f"{name}.{i}"
        if kind == "SDCascadeResBlock":
            yield from layer(f"{block}.depthwise", width, 1, config["kernel_size"], config["kernel_size"])
            yield from layer(f"{block}.channelwise.0", 4 * width, width + (0 if i else skip))
            yield f"{block}.channelwise.2.gamma", (1, 1, 1, 4 * width)
            yield f"{block}.channelwise.2.beta", (1, 1, 1, 4 * width)
            yield from layer(f"{block}.channelwise.4", width, 4 * width)
        elif kind == "SDCascadeTimestepBlock":
            for mapper in ("mapper", *(f"mapper_{condition}" for condition in config["timestep_conditioning_type"])):
                yield from layer(f"{block}.{mapper}", 2 * width, config["timestep_ratio_embedding_dim"])
        elif kind == "SDCascadeAttnBlock":
            for matrix in ("to_q", "to_k", "to_v", "to_out.0"):
                yield from layer(f"{block}.attention.{matrix}", width, width)
            yield from layer(f"{block}.kv_mapper.1", width, config["conditioning_dim"])
        else:
            raise ValueError(f"block type {kind}")


def _repeat_mappers(name: str, width: int, repeats: list[int] | None, place: int) -> Named:
    for i in range(repeats[place] - 1 if repeats is not None else 0):
        yield from layer(f"{name}.{i}", width, width, 1, 1)


def _stage_a(config: Mapping[str, Any]) -> Named:
    levels, latents = config["levels"], config["latent_channels"]
    widths = [config["embed_dim"] // 2 ** (levels - 1 - level) for level in range(levels)]
    patch = config["up_down_scale_factor"] ** 2
    yield from layer("in_block.1", widths[0], config["in_channels"] * patch, 1, 1)
    for level, width in enumerate(widths):
        if level:
            yield from layer(f"down_blocks.{2 * level - 1}", width, widths[level - 1], 4, 4)
        yield from _mixing_block(f"down_blocks.{2 * level}", width)
    last = f"down_blocks.{2 * levels - 1}"
    yield from layer(f"{last}.0", latents, widths[-1], 1, 1, bias=False)
    for name in ("weight", "bias", "running_mean", "running_var"):
        yield f"{last}.1.{name}", (latents,)
    yield from layer("vquantizer.embedding", config["num_vq_embeddings"], latents, bias=False)
    yield from layer("up_blocks.0.0", widths[-1], latents, 1, 1)
    place = 1
    for level in reversed(range(levels)):
        for _ in range(config["bottleneck_blocks"] if level == levels - 1 else 1):
            yield from _mixing_block(f"up_blocks.{place}", widths[level])
            place += 1
        if level:
            # A transposed convolution has its inputs first, and its bias is as long as its outputs.
            yield f"up_blocks.{place}.weight", (widths[level], widths[level - 1], 4, 4)
            yield f"up_blocks.{place}.bias", (widths[level - 1],)
            place += 1
    yield from layer("out_block.0", config["out_channels"] * patch, widths[0], 1, 1)


def _mixing_block(name: str, width: int) -> Named:
    yield f"{name}.gammas", (6,)
    yield from layer(f"{name}.depthwise.1", width, 1, 3, 3)
    yield from layer(f"{name}.channelwise.0", 4 * width, width)
    yield from layer(f"{name}.channelwise.2", width, 4 * width)


def _effnet(config: Mapping[str, Any]) -> Named:
    with torch.device("meta"):
        encoder = EfficientNetEncoder(EffnetConfig.from_json(dict(config)))
    for name, tensor in encoder.state_dict().items():
        if tensor.is_floating_point():
            yield name, tuple(tensor.shape)
