"""Tensor names of SDXL in its two layouts: the diffusers folder and the original single file.

The tables below are the map; code only counts blocks and walks over them. A row renames a module (everything
below it keeps its name) or one tensor. Four kinds of tensor also change shape on the way to the single file:

  same        as it is
  transposed  text_projection: a matrix that multiplies from the right there, a Linear's weight here
  conv1x1     attention of the VAE: 1x1 convolutions there, Linear here
  rows        q, k, v of the second text encoder: the three thirds of one in_proj there

Sources: generative-models' sd_xl_base.yaml and open_clip's modules for the single file, diffusers 0.39 and
transformers 4.57 modules for the folder; transformers 5.6 and later drop `text_model.` from the first text
encoder's names, which `canonical_text_name` puts back.
"""

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from repro.errors import StageError
from repro.tensorfile import TensorSpec

Form = Literal["same", "transposed", "conv1x1", "rows"]
Specs = Mapping[str, TensorSpec]

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
# In the single file only: CLIP's temperature, which a text encoder never uses. ln(100), where its training clips it.
LOGIT_SCALE = SINGLE_FILE_PREFIX["text_encoder_2"] + "logit_scale"
LOGIT_SCALE_VALUE = math.log(100.0)

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


@dataclass(frozen=True)
class Place:
    """Where a diffusers tensor stands in the single file: its name there and its form; `part` 0, 1, 2 is q, k, v."""

    name: str
    form: Form = "same"
    part: int = 0

    def shape_in_folder(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The diffusers tensor's shape where the single file's is `shape`.

        Raises:
            StageError: the single file's is not of this place's form.
        """
        if self.form == "transposed" and len(shape) == 2:
            return shape[::-1]
        if self.form == "conv1x1" and shape[2:] == (1, 1):
            return shape[:2]
        if self.form == "rows" and shape and shape[0] % len(TEXT_ENCODER_2_IN_PROJ) == 0:
            return (shape[0] // len(TEXT_ENCODER_2_IN_PROJ), *shape[1:])
        if self.form == "same":
            return shape
        raise StageError(f"tensor '{self.name}' has shape {list(shape)}, which is not that of SDXL's single-file layout")


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


def _longest_prefix(table: Mapping[str, Any], name: str) -> tuple[str, str] | None:
    """(row of the table, rest of the name) for the longest dotted beginning of `name` that has a row."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        row = ".".join(parts[:n])
        if row in table:
            return row, name[len(row) :]
    return None


class Layout:
    """The map between the two layouts for one architecture."""

    def __init__(self, architecture: Architecture = SDXL):
        self._places: dict[str, dict[str, Place]] = {
            "unet": {ours: Place(theirs) for ours, theirs in _unet_rows(architecture)},
            "text_encoder": {ours: Place(theirs) for ours, theirs in TEXT_ENCODER.items()},
            "text_encoder_2": dict(_text_encoder_2_rows(architecture)),
            "vae": dict(_vae_rows(architecture)),
        }
        self._sources: dict[str, dict[str, list[tuple[str, Place]]]] = {}
        for component, rows in self._places.items():
            back = self._sources[component] = {}
            for ours, place in rows.items():
                back.setdefault(place.name, []).append((ours, place))

    def place(self, component: str, name: str) -> Place | None:
        """Where the diffusers tensor `name` of a component stands in the single file; None where it has no place."""
        table = self._places[component]
        found = _longest_prefix(table, name)
        if found is None:
            return None
        row = table[found[0]]
        return Place(SINGLE_FILE_PREFIX[component] + row.name + found[1], row.form, row.part)

    def sources(self, name: str) -> list[tuple[str, str, Place]]:
        """(component, diffusers name, place) of each diffusers tensor that makes up the single file's tensor `name`."""
        component = component_of(name)
        if component is None:
            return []
        inner = name.removeprefix(SINGLE_FILE_PREFIX[component])
        found = _longest_prefix(self._sources[component], inner)
        if found is None:
            return []
        row, rest = found
        return [(component, ours + rest, Place(name, place.form, place.part)) for ours, place in self._sources[component][row]]


def component_of(name: str) -> str | None:
    """The component (folder name in diffusers) that a single file's tensor belongs to."""
    return next((component for component, prefix in SINGLE_FILE_PREFIX.items() if name.startswith(prefix)), None)


def canonical_text_name(name: str) -> str:
    """A text encoder's tensor name in the older spelling: with `text_model.`, as folders are written and single files want."""
    return name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}"


@dataclass(frozen=True)
class Part:
    """A diffusers tensor as a part of a single file's tensor."""

    component: str
    name: str
    form: Form


@dataclass(frozen=True)
class SingleTensor:
    """A single file's tensor and what it is made of: one part, or q, k and v one below the other; none for logit_scale."""

    spec: TensorSpec
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class FolderTensor:
    """A folder's tensor and where it stands in the single file."""

    spec: TensorSpec
    place: Place


def to_single_file(models: Mapping[str, Specs], layout: Layout) -> dict[str, SingleTensor]:
    """The tensors of a diffusers model under their single-file names and shapes, with logit_scale added.

    Args:
        models: {component: {diffusers name: spec}} of unet, text_encoder, text_encoder_2 and vae.
        layout: the model's map.
    Raises:
        StageError: a tensor that has no place in SDXL's single file, or an in_proj of which a part is missing.
    """
    found: dict[str, dict[int, tuple[Part, TensorSpec]]] = {}
    for component, specs in models.items():
        for name, spec in specs.items():
            place = layout.place(component, name)
            if place is None or place.part in found.get(place.name, ()) or (found.get(place.name) and place.form != "rows"):
                raise StageError(f"{component}: tensor '{name}' has no place in SDXL's single file; is this an SDXL model?")
            found.setdefault(place.name, {})[place.part] = (Part(component, name, place.form), spec)
    single = {name: _composed(name, [parts[part] for part in sorted(parts)]) for name, parts in found.items()}
    dtype = next((spec.dtype for spec in models["text_encoder_2"].values() if spec.is_float), "F32")
    return single | {LOGIT_SCALE: SingleTensor(TensorSpec(dtype, ()), ())}


def _composed(name: str, parts: list[tuple[Part, TensorSpec]]) -> SingleTensor:
    forms, specs = [part.form for part, _ in parts], [spec for _, spec in parts]
    shape = specs[0].shape
    if forms[0] == "rows":
        if len(parts) != len(TEXT_ENCODER_2_IN_PROJ) or any(spec.shape != shape for spec in specs):
            raise StageError(f"text_encoder_2: {name} needs q_proj, k_proj and v_proj of one shape, and not all are there")
        shape = (len(parts) * shape[0], *shape[1:])
    elif forms[0] != "same" and len(shape) != 2:
        raise StageError(f"{parts[0][0].component}: tensor '{parts[0][0].name}' has shape {list(shape)}; expected a matrix")
    elif forms[0] == "transposed":
        shape = shape[::-1]
    elif forms[0] == "conv1x1":
        shape = (*shape, 1, 1)
    dtypes = {spec.dtype for spec in specs}
    return SingleTensor(TensorSpec(dtypes.pop() if len(dtypes) == 1 else "F32", shape), tuple(part for part, _ in parts))


def to_diffusers(single: Specs, layout: Layout) -> dict[str, dict[str, FolderTensor]]:
    """The inverse of `to_single_file`: {component: {diffusers name: tensor}}; logit_scale is left out.

    Raises:
        StageError: a tensor that is not SDXL's, or not of the shape that its place has.
    """
    models: dict[str, dict[str, FolderTensor]] = {component: {} for component in SINGLE_FILE_PREFIX}
    for name, spec in single.items():
        if name == LOGIT_SCALE:
            continue
        sources = layout.sources(name)
        if not sources:
            raise StageError(f"tensor '{name}' is not one of SDXL's single-file layout")
        for component, ours, place in sources:
            models[component][ours] = FolderTensor(TensorSpec(spec.dtype, place.shape_in_folder(spec.shape)), place)
    return models


def lokr_places(names: Iterable[str], layout: Layout) -> dict[str, Place]:
    """{LoKr module name: place} for every spelling by which a file may name the weights `names` of a single file.

    Spellings: kohya on its own UNet (the single file's block names), kohya or LyCORIS on diffusers modules, and the
    text encoders of transformers 5.6 and later (without `text_model`). Text encoders are named by their diffusers
    modules in all of them, so a LoKr of q_proj meets one third of the fused in_proj.
    """
    places: dict[str, Place] = {}
    for name in names:
        for component, ours, place in layout.sources(name):
            if component not in LOKR_PREFIX or not ours.endswith(".weight"):
                continue
            prefix, path = LOKR_PREFIX[component], ours.removesuffix(".weight")
            spellings = {path, path.removeprefix("text_model.")}
            if component == "unet":
                spellings.add(name.removeprefix(SINGLE_FILE_PREFIX[component]).removesuffix(".weight"))
            for spelling in spellings:
                places[prefix + spelling.replace(".", "_")] = place
    return places
