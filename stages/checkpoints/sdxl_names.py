"""Tensor names of SDXL in its two layouts: the diffusers folder and the original single file.

The tables below are the map; code only counts blocks and walks over them. A row renames a module (everything
below it keeps its name) or one tensor; for tensors that also change their shape see `keymap.Form`.

Sources: generative-models' sd_xl_base.yaml and open_clip's modules for the single file, diffusers 0.39 and
transformers 4.57 modules for the folder.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from checkpoints.keymap import TEXT_ENCODERS, Layout, Place

SINGLE_FILE_PREFIX = {
    "unet": "model.diffusion_model.",
    "text_encoder": "conditioner.embedders.0.transformer.",
    "text_encoder_2": "conditioner.embedders.1.model.",
    "vae": "first_stage_model.",
}

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
# {i} level, {j} layer of the level; the numbers of the single file's flat block lists are worked out in `_unet_rows`.
UNET = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "mid_block.attentions.0": "middle_block.1",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
UNET_RESNETS = {"mid_block.resnets.0": "middle_block.0", "mid_block.resnets.1": "middle_block.2"}
UNET_DOWN = {"attentions.{j}": "input_blocks.{block}.1"}
UNET_DOWN_RESNETS = {"resnets.{j}": "input_blocks.{block}.0"}
UNET_DOWNSAMPLER = {"downsamplers.0.conv": "input_blocks.{last}.0.op"}
UNET_UP = {"attentions.{j}": "output_blocks.{block}.1"}
UNET_UP_RESNETS = {"resnets.{j}": "output_blocks.{block}.0"}
UNET_UPSAMPLER = {"upsamplers.0.conv": "output_blocks.{last}.{place}.conv"}

TEXT_ENCODER = {"text_model": "text_model"}

TEXT_ENCODER_2 = {
    "text_model.embeddings.token_embedding": "token_embedding",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm": "ln_final",
}
TEXT_ENCODER_2_TRANSPOSED = {"text_projection.weight": "text_projection"}
TEXT_ENCODER_2_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
TEXT_ENCODER_2_IN_PROJ = ("q_proj", "k_proj", "v_proj")
# In the single file only.
LOGIT_SCALE = SINGLE_FILE_PREFIX["text_encoder_2"] + "logit_scale"

VAE = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
VAE_HALF = {  # of encoder and decoder alike
    "conv_in": "conv_in",
    "conv_norm_out": "norm_out",
    "conv_out": "conv_out",
    "mid_block.attentions.0.group_norm": "mid.attn_1.norm",
}
VAE_ATTENTION = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
VAE_RESNET = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2", "conv_shortcut": "nin_shortcut"}
VAE_MID_RESNETS = {"mid_block.resnets.0": "mid.block_1", "mid_block.resnets.1": "mid.block_2"}

# Token and position embeddings of both text encoders, in the single file.
EMBEDDINGS = (
    "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight",
    "conditioner.embedders.0.transformer.text_model.embeddings.position_embedding.weight",
    "conditioner.embedders.1.model.token_embedding.weight",
    "conditioner.embedders.1.model.positional_embedding",
)

# What a LoKr file calls the parts (kohya's prefixes); the VAE has no LoKr.
LOKR_PREFIX = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}


@dataclass(frozen=True)
class Architecture:
    """The counts that block numbers depend on; widths and transformer depths do not matter."""

    unet_levels: int
    unet_layers_per_block: int
    unet_up_attention: tuple[bool, ...]
    text_encoder_2_layers: int
    vae_levels: int
    vae_layers_per_block: int

    @classmethod
    def from_configs(cls, configs: Mapping[str, Mapping[str, Any]]) -> "Architecture":
        """From the config.json contents of the folder's `unet`, `text_encoder_2` and `vae`."""
        unet, vae = configs["unet"], configs["vae"]
        return cls(
            unet_levels=len(unet["down_block_types"]),
            unet_layers_per_block=unet["layers_per_block"],
            unet_up_attention=tuple("CrossAttn" in kind for kind in unet["up_block_types"]),
            text_encoder_2_layers=configs["text_encoder_2"]["num_hidden_layers"],
            vae_levels=len(vae["down_block_types"]),
            vae_layers_per_block=vae["layers_per_block"],
        )

    @classmethod
    def from_names(cls, names: Collection[str]) -> "Architecture":
        """From the tensor names of a single file; what a part of a checkpoint does not show is taken as in SDXL."""
        found = {key: {int(n) for n in _numbers(pattern, names)} for key, pattern in COUNTED_BY.items()}
        layers = min(found["downsamplers"], default=SDXL.unet_layers_per_block + 1) - 1
        levels = len(found["downsamplers"]) + 1 if found["downsamplers"] else SDXL.unet_levels
        per_level = layers + 1
        return cls(
            unet_levels=levels,
            unet_layers_per_block=layers,
            unet_up_attention=tuple(any(n // per_level == i for n in found["up_attention"]) for i in range(levels)),
            text_encoder_2_layers=max(found["text_layers"], default=SDXL.text_encoder_2_layers - 1) + 1,
            vae_levels=max(found["vae_levels"], default=SDXL.vae_levels - 1) + 1,
            vae_layers_per_block=max(found["vae_layers"], default=SDXL.vae_layers_per_block - 1) + 1,
        )


# In which single-file names the counts of an architecture show.
COUNTED_BY = {
    "downsamplers": r"model\.diffusion_model\.input_blocks\.(\d{1,4})\.0\.op\.weight",
    "up_attention": r"model\.diffusion_model\.output_blocks\.(\d{1,4})\.1\.(?!conv\.).*",
    "text_layers": r"conditioner\.embedders\.1\.model\.transformer\.resblocks\.(\d{1,4})\..*",
    "vae_levels": r"first_stage_model\.(?:en|de)coder\.(?:down|up)\.(\d{1,4})\..*",
    "vae_layers": r"first_stage_model\.encoder\.down\.\d+\.block\.(\d{1,4})\..*",
}


def _numbers(pattern: str, names: Collection[str]) -> list[str]:
    return [match[1] for name in names if (match := re.fullmatch(pattern, name))]


SDXL = Architecture(
    unet_levels=3,
    unet_layers_per_block=2,
    unet_up_attention=(True, True, False),
    text_encoder_2_layers=32,
    vae_levels=4,
    vae_layers_per_block=2,
)


def _unet_rows(arch: Architecture) -> Iterator[tuple[str, str]]:
    yield from UNET.items()
    resnets = dict(UNET_RESNETS)
    per_down, per_up = arch.unet_layers_per_block + 1, arch.unet_layers_per_block + 1
    for i in range(arch.unet_levels):
        # A level's layers and then its downsampler count as input blocks; conv_in was block 0.
        last = per_down * (i + 1)
        for j in range(arch.unet_layers_per_block):
            block = per_down * i + j + 1
            for ours, theirs in UNET_DOWN.items():
                yield f"down_blocks.{i}." + ours.format(j=j), theirs.format(block=block)
            for ours, theirs in UNET_DOWN_RESNETS.items():
                resnets[f"down_blocks.{i}." + ours.format(j=j)] = theirs.format(block=block)
        for ours, theirs in UNET_DOWNSAMPLER.items():
            yield f"down_blocks.{i}." + ours, theirs.format(last=last)
        # On the way up each level has one layer more; the upsampler is the last layer's last module.
        for j in range(per_up):
            block = per_up * i + j
            for ours, theirs in UNET_UP.items():
                yield f"up_blocks.{i}." + ours.format(j=j), theirs.format(block=block)
            for ours, theirs in UNET_UP_RESNETS.items():
                resnets[f"up_blocks.{i}." + ours.format(j=j)] = theirs.format(block=block)
        place = 2 if arch.unet_up_attention[i] else 1
        for ours, theirs in UNET_UPSAMPLER.items():
            yield f"up_blocks.{i}." + ours, theirs.format(last=per_up * (i + 1) - 1, place=place)
    for ours, theirs in resnets.items():
        for our_part, their_part in RESNET.items():
            yield f"{ours}.{our_part}", f"{theirs}.{their_part}"


def _text_encoder_2_rows(arch: Architecture) -> Iterator[tuple[str, Place]]:
    for ours, theirs in TEXT_ENCODER_2.items():
        yield ours, Place(theirs)
    for ours, theirs in TEXT_ENCODER_2_TRANSPOSED.items():
        yield ours, Place(theirs, "transposed")
    for i in range(arch.text_encoder_2_layers):
        layer, block = f"text_model.encoder.layers.{i}.", f"transformer.resblocks.{i}."
        for ours, theirs in TEXT_ENCODER_2_LAYER.items():
            yield layer + ours, Place(block + theirs)
        for part, ours in enumerate(TEXT_ENCODER_2_IN_PROJ):
            for kind in ("weight", "bias"):
                yield f"{layer}self_attn.{ours}.{kind}", Place(f"{block}attn.in_proj_{kind}", "rows", part)


def _vae_rows(arch: Architecture) -> Iterator[tuple[str, Place]]:
    for ours, theirs in VAE.items():
        yield ours, Place(theirs)
    resnets = {}
    for half in ("encoder", "decoder"):
        for ours, theirs in VAE_HALF.items():
            yield f"{half}.{ours}", Place(f"{half}.{theirs}")
        for ours, theirs in VAE_ATTENTION.items():
            yield f"{half}.mid_block.attentions.0.{ours}.weight", Place(f"{half}.mid.attn_1.{theirs}.weight", "conv1x1")
            yield f"{half}.mid_block.attentions.0.{ours}.bias", Place(f"{half}.mid.attn_1.{theirs}.bias")
        for ours, theirs in VAE_MID_RESNETS.items():
            resnets[f"{half}.{ours}"] = f"{half}.{theirs}"
    for i in range(arch.vae_levels):
        mirrored = arch.vae_levels - 1 - i  # the single file counts the decoder's levels from the picture inwards
        yield f"encoder.down_blocks.{i}.downsamplers.0.conv", Place(f"encoder.down.{i}.downsample.conv")
        yield f"decoder.up_blocks.{i}.upsamplers.0.conv", Place(f"decoder.up.{mirrored}.upsample.conv")
        for j in range(arch.vae_layers_per_block):
            resnets[f"encoder.down_blocks.{i}.resnets.{j}"] = f"encoder.down.{i}.block.{j}"
        for j in range(arch.vae_layers_per_block + 1):
            resnets[f"decoder.up_blocks.{i}.resnets.{j}"] = f"decoder.up.{mirrored}.block.{j}"
    for ours, theirs in resnets.items():
        for our_part, their_part in VAE_RESNET.items():
            yield f"{ours}.{our_part}", Place(f"{theirs}.{their_part}")


def sdxl_layout(architecture: Architecture = SDXL) -> Layout:
    """The map between the two layouts for one architecture."""
    places = {
        "unet": {ours: Place(theirs) for ours, theirs in _unet_rows(architecture)},
        "text_encoder": {ours: Place(theirs) for ours, theirs in TEXT_ENCODER.items()},
        "text_encoder_2": dict(_text_encoder_2_rows(architecture)),
        "vae": dict(_vae_rows(architecture)),
    }
    return Layout(
        title="SDXL",
        places=places,
        single_file_prefix=SINGLE_FILE_PREFIX,
        lokr_prefix=LOKR_PREFIX,
        lokr_path=_lokr_path,
        logit_scale=LOGIT_SCALE,
        logit_scale_of="text_encoder_2",
        left_out=(LOGIT_SCALE,),
    )


def _lokr_path(component: str, path: str, place: Place) -> str:
    """As kohya's trainer calls a layer: the UNet's by the single file's numbers, text encoders' by their diffusers modules."""
    if component in TEXT_ENCODERS:
        return path
    return place.name.removeprefix(SINGLE_FILE_PREFIX[component]).removesuffix(".weight")
