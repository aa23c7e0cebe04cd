"""Tensor names of Stable Cascade in its layouts: diffusers folders, and ComfyUI's single files of stage C and of stage B.

Stage C and stage B have one naming in both layouts, Stability AI's own, but for attention (fused in_proj there) and, in stage
B, the mapper of the pooled text. ComfyUI's stage C file holds the image encoder as `vae.encoder.` (and, in published files,
`vae.previewer.`, a fast decoder, and CLIP's image encoder, which no folder of ours has); its stage B file stage A as `vae.`.

Sources: ComfyUI's supported_models.py (Stable_Cascade_C, Stable_Cascade_B), sd.py and lora.py; diffusers 0.39
(`convert_stable_cascade_unet_single_file_to_diffusers`, StableCascadeUNet, PaellaVQModel); StableCascade's stage_c.py.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from checkpoints.keymap import TEXT_ENCODERS, Layout, Place

PRIOR_PREFIX = {
    "text_encoder": "text_encoder.clip_g.transformer.",
    "prior": "model.diffusion_model.",
    "effnet": "vae.encoder.",
}
DECODER_PREFIX = {
    "text_encoder": "text_encoder.clip_g.transformer.",
    "decoder": "model.diffusion_model.",
    "vqgan": "vae.",
}
LOGIT_SCALE = "text_encoder.clip_g.logit_scale"
# Before April 2024 ComfyUI had the projection as a matrix that multiplies from the right.
EARLIER_PROJECTION = "text_encoder.clip_g.text_projection"
PROJECTION = "text_encoder.clip_g.transformer.text_projection.weight"
# In ComfyUI's files beside the components: ImageNet's mean and deviation, the previewer, CLIP's image encoder.
WITHOUT_A_FOLDER = ("vae.encoder.mean", "vae.encoder.std", "vae.previewer.", "clip_l_vision.")

# Beginnings of names that tell a stage C file from SDXL's, which has `model.diffusion_model.` in common with it.
MARKS = ("model.diffusion_model.clip_txt_mapper.", "text_encoder.clip_g.", "vae.encoder.")
# What tells the files that hold one part alone, under the part's own names: Stability AI's, and what stands before them here.
BARE_PARTS = {
    "clip_txt_mapper.weight": PRIOR_PREFIX["prior"],
    "mapper.1.running_mean": PRIOR_PREFIX["effnet"],
}

TEXT_ENCODER = ("text_model", "text_projection")
# Modules of stages C and B that have the same name in both layouts.
STAGE = (
    "clf",
    "clip_img_mapper",
    "clip_txt_mapper",
    "down_blocks",
    "down_downscalers",
    "down_repeat_mappers",
    "effnet_mapper",
    "embedding",
    "pixels_mapper",
    "up_blocks",
    "up_repeat_mappers",
    "up_upscalers",
)
POOLED_MAPPER = "clip_txt_pooled_mapper"
POOLED_MAPPER_OF_STAGE_B = "clip_mapper"
ATTENTION, ATTENTION_IN_FILE = "attention.", "attention.attn."
IN_PROJ = ("to_q", "to_k", "to_v")
OUT_PROJ, OUT_PROJ_IN_FILE = "to_out.0", "out_proj"
EFFNET = ("backbone", "mapper")
VQGAN = {
    "in_block": "in_block",
    "down_blocks": "down_blocks",
    "up_blocks": "up_blocks",
    "out_block": "out_block",
    "vquantizer.embedding": "vquantizer.codebook",
}

EMBEDDINGS = (
    "text_encoder.clip_g.transformer.text_model.embeddings.token_embedding.weight",
    "text_encoder.clip_g.transformer.text_model.embeddings.position_embedding.weight",
)
LOKR_PREFIX = {"text_encoder": "lora_prior_te_", "prior": "lora_prior_unet_"}


def _same(names: Collection[str]) -> dict[str, Place]:
    return {name: Place(name) for name in names}


def _attention_rows(block: str) -> Iterator[tuple[str, Place]]:
    ours, theirs = f"{block}.{ATTENTION}", f"{block}.{ATTENTION_IN_FILE}"
    for part, matrix in enumerate(IN_PROJ):
        for kind in ("weight", "bias"):
            yield f"{ours}{matrix}.{kind}", Place(f"{theirs}in_proj_{kind}", "rows", part)
    yield f"{ours}{OUT_PROJ}", Place(f"{theirs}{OUT_PROJ_IN_FILE}")


def _stage_rows(attention_blocks: Collection[str], pooled_mapper: str) -> dict[str, Place]:
    rows = _same(STAGE) | {POOLED_MAPPER: Place(pooled_mapper)}
    for block in attention_blocks:
        rows |= dict(_attention_rows(block))
    return rows


def attention_blocks(config: Mapping[str, Any]) -> list[str]:
    """The blocks of a StableCascadeUNet that are attention, by the config; up blocks are counted from the narrowest level."""
    blocks = []
    levels = range(len(config["block_out_channels"]))
    for half, counts, order in (
        ("down_blocks", config["down_num_layers_per_block"], levels),
        ("up_blocks", config["up_num_layers_per_block"], levels[::-1]),
    ):
        for place, (level, count) in enumerate(zip(order, counts, strict=True)):
            kinds = list(config["block_types_per_layer"][level]) * count
            blocks += [f"{half}.{place}.{i}" for i, kind in enumerate(kinds) if kind == "SDCascadeAttnBlock"]
    return blocks


def attention_blocks_of_names(names: Collection[str]) -> list[str]:
    """The same, of a single file's names."""
    pattern = r"model\.diffusion_model\.(.*)\.attention\.attn\.(?:in_proj_|out_proj\.).*"
    return sorted({found[1] for name in names if (found := re.fullmatch(pattern, name))})


def prior_layout(attention: Collection[str]) -> Layout:
    """Of stage C with its text encoder and the image encoder; `attention`: its attention blocks."""
    places = {"text_encoder": _same(TEXT_ENCODER), "prior": _stage_rows(attention, POOLED_MAPPER), "effnet": _same(EFFNET)}
    return Layout(
        title="Stable Cascade",
        places=places,
        single_file_prefix=PRIOR_PREFIX,
        lokr_prefix=LOKR_PREFIX,
        lokr_path=_lokr_path,
        logit_scale=LOGIT_SCALE,
        logit_scale_of="text_encoder",
        left_out=(LOGIT_SCALE, *WITHOUT_A_FOLDER),
    )


def decoder_layout(attention: Collection[str]) -> Layout:
    """Of stage B with its text encoder and stage A."""
    places = {
        "text_encoder": _same(TEXT_ENCODER),
        "decoder": _stage_rows(attention, POOLED_MAPPER_OF_STAGE_B),
        "vqgan": {ours: Place(theirs) for ours, theirs in VQGAN.items()},
    }
    return Layout(
        title="Stable Cascade's decoder",
        places=places,
        single_file_prefix=DECODER_PREFIX,
        lokr_prefix={},
        lokr_path=_lokr_path,
        logit_scale=LOGIT_SCALE,
        logit_scale_of="text_encoder",
        left_out=(LOGIT_SCALE,),
    )


def _lokr_path(component: str, path: str, place: Place) -> str:
    """As ComfyUI calls a layer: q, k and v, which it takes apart on loading, below `attn`; text encoders' by their modules."""
    if component in TEXT_ENCODERS:
        return path
    if place.form == "rows":
        return path.replace(f".{ATTENTION}", f".{ATTENTION_IN_FILE}")
    return place.name.removeprefix(PRIOR_PREFIX[component]).removesuffix(".weight")
