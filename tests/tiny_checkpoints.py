"""Tiny SDXL checkpoints for tests: real single-file names, one of each kind of tensor, small shapes; and merges of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from repro.randomness import seed_for

import torch
from safetensors.torch import load_file, save_file

from checkpoints.formula import parse_formula
from checkpoints.layouts import write_single_file
from checkpoints.merging import Merge
from checkpoints.operands import Operands, open_operands
from checkpoints.rounding import Precision

CONV = "model.diffusion_model.input_blocks.0.0.weight"
CONV_BIAS = "model.diffusion_model.input_blocks.0.0.bias"
TIME = "model.diffusion_model.time_embed.0.weight"
LINEAR = "model.diffusion_model.input_blocks.4.1.proj_in.weight"
CONV_3X3 = "model.diffusion_model.middle_block.2.out_layers.3.weight"
OUT_NORM = "model.diffusion_model.out.0.weight"
CLIP_L = "conditioner.embedders.0.transformer.text_model."
TOKENS = CLIP_L + "embeddings.token_embedding.weight"
POSITIONS = CLIP_L + "embeddings.position_embedding.weight"
IDS = CLIP_L + "embeddings.position_ids"
CLIP_L_MLP = CLIP_L + "encoder.layers.0.mlp.fc1.weight"
CLIP_G = "conditioner.embedders.1.model."
TOKENS_2 = CLIP_G + "token_embedding.weight"
POSITIONS_2 = CLIP_G + "positional_embedding"
PROJECTION = CLIP_G + "text_projection"
IN_PROJ = CLIP_G + "transformer.resblocks.0.attn.in_proj_weight"
IN_PROJ_BIAS = CLIP_G + "transformer.resblocks.0.attn.in_proj_bias"
TEMPERATURE = CLIP_G + "logit_scale"
VAE_QUERY = "first_stage_model.encoder.mid.attn_1.q.weight"

SHAPES: Mapping[str, tuple[int, ...]] = {
    CONV: (8, 4, 3, 3),
    CONV_BIAS: (8,),
    TIME: (10, 6),
    LINEAR: (12, 8),
    CONV_3X3: (6, 8, 3, 3),
    OUT_NORM: (5,),
    TOKENS: (20, 6),
    POSITIONS: (7, 6),
    CLIP_L_MLP: (12, 6),
    TOKENS_2: (20, 8),
    POSITIONS_2: (7, 8),
    PROJECTION: (8, 6),
    IN_PROJ: (24, 8),
    IN_PROJ_BIAS: (24,),
    TEMPERATURE: (),
    VAE_QUERY: (4, 4, 1, 1),
}


def uniform(seed: object, *shape: int) -> torch.Tensor:
    """Numbers from -0.5 to 0.5 that float16 holds, in float32."""
    draw = torch.Generator().manual_seed(seed_for(0, "tiny checkpoint", str(seed)))
    return (torch.rand(shape, generator=draw) - 0.5).half().float()


def tiny_tensors(seed: object, dtype: torch.dtype = torch.float16) -> dict[str, torch.Tensor]:
    """A checkpoint's tensors; their numbers do not depend on `dtype` where it is float16 or wider."""
    tensors = {name: uniform(f"{seed} {name}", *shape).to(dtype) for name, shape in SHAPES.items()}
    return tensors | {IDS: torch.arange(7)[None]}


def write(path: Path, tensors: Mapping[str, torch.Tensor]) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def write_models(folder: Path, models: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, Path]:
    """One file a model; returns their paths by name."""
    return {name: write(folder / f"{name}.safetensors", tensors) for name, tensors in models.items()}


def write_tiny_models(folder: Path, names: Sequence[str], dtype: torch.dtype = torch.float16) -> dict[str, Path]:
    """Models of other numbers each; returns their paths by name."""
    return write_models(folder, {name: tiny_tensors(name, dtype) for name in names})


def open_merge(formula: str, files: Mapping[str, Path], precision: Precision | None = None, **options: Any) -> Merge:
    """`options`: unmatched, unchanged."""
    parsed = parse_formula(formula)
    return Merge(parsed, open_operands(parsed, files), precision or Precision("fp16"), **options)


def merged(formula: str, files: Mapping[str, Path], out: Path, precision: Precision | None = None, **options: Any) -> Merge:
    """Merge to the single file `out`."""
    merge = open_merge(formula, files, precision, **options)
    write_single_file(out, merge, lambda _: {})
    return merge


def merged_tensors(
    formula: str, files: Mapping[str, Path], out: Path, precision: Precision | None = None, **options: Any
) -> dict[str, torch.Tensor]:
    """What stands in the single file `out` then."""
    merged(formula, files, out, precision, **options)
    return load_file(out)


def operands_of(formula: str, files: Mapping[str, Path]) -> Operands:
    return open_operands(parse_formula(formula), files)


def same(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> bool:
    """Whether both have the same names, types, shapes and bytes."""
    if ours.keys() != theirs.keys():
        return False
    return all(same_bytes(ours[name], theirs[name]) for name in theirs)


def same_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(a.contiguous().flatten().view(torch.uint8), b.contiguous().flatten().view(torch.uint8))
