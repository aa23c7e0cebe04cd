"""Make what benchmarks/merge.py merges: four SDXL files and a LoKr file, of random weights (merge_folder.py: a folder)."""

import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

MODELS = ("beta7", "anxl3", "anxl2", "base7")
LOKR = "lokr.safetensors"
PARTS = (
    "model.diffusion_model.time_embed.",
    "model.diffusion_model.label_emb.",
    "model.diffusion_model.input_blocks.0.",
    "model.diffusion_model.input_blocks.1.",
    "model.diffusion_model.input_blocks.6.",
    "model.diffusion_model.middle_block.0.",
    "model.diffusion_model.output_blocks.1.",
    "model.diffusion_model.output_blocks.3.",
    "model.diffusion_model.output_blocks.6.",
    "model.diffusion_model.output_blocks.7.",
    "model.diffusion_model.output_blocks.8.",
    "conditioner.embedders.0.",
    "conditioner.embedders.1.model.token_embedding.",
    "conditioner.embedders.1.model.positional_embedding",
    "conditioner.embedders.1.model.text_projection",
    "first_stage_model.decoder.",
)
"""A fifth of SDXL, with its smallest and its largest tensors: 722 million weights."""
UNET_PREFIX, LOKR_PREFIX = "model.diffusion_model.", "lora_unet_"
ATTENTION_FACTOR, FEED_FORWARD_FACTOR, OTHER_FACTOR = 2, 4, 8
WEIGHT_STD, W1_SCALE = 0.02, 5
BLOCK = 1 << 23


def make_files(work: Path, sdxl: Mapping[str, tuple[int, ...]]) -> None:
    """The files that are not in `work` yet; `sdxl`: {tensor: shape} of a whole SDXL."""
    shapes = {name: shape for name, shape in sdxl.items() if name.startswith(PARTS)}
    for seed, name in enumerate(MODELS):
        save_once(work / f"{name}.safetensors", shapes, Weights(seed))
    save_once(work / LOKR, lokr_shapes(shapes), Weights(len(MODELS)))


class Weights:
    """Random weights as real ones look, cut from one random block: quickly made, another for every tensor and seed."""

    def __init__(self, seed: int):
        self._random = np.random.default_rng(seed)
        self._block = (self._random.standard_normal(BLOCK, dtype=np.float32) * np.float32(WEIGHT_STD)).astype(np.float16)

    def of_shape(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name.endswith(".alpha"):
            return np.full(shape, np.inf, np.float16)  # what LyCORIS' 1e10 of a full matrix becomes in a float16 file
        start, size = self._random.integers(BLOCK // 2), math.prod(shape)
        weights = np.resize(self._block[start : start + size], shape)
        return weights * np.float16(W1_SCALE) if name.endswith(".lokr_w1") else weights


def lokr_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """{tensor: shape} of a LoKr file of full matrices for every linear and convolution of the UNet, named as kohya does."""
    factors = {}
    for name, (rows, *rest) in shapes.items():
        if name.startswith(UNET_PREFIX) and rest:
            columns, *kernel = rest
            a, c = (factor_of(length, name) for length in (rows, columns))
            factors[f"{lokr_name(name)}.alpha"] = ()
            factors[f"{lokr_name(name)}.lokr_w1"] = (a, c)
            factors[f"{lokr_name(name)}.lokr_w2"] = (rows // a, columns // c, *kernel)
    return factors


def lokr_name(tensor: str) -> str:
    """The module's name in kohya's files."""
    return LOKR_PREFIX + tensor.removeprefix(UNET_PREFIX).removesuffix(".weight").replace(".", "_")


def factor_of(length: int, tensor: str) -> int:
    """The largest divisor of a side of the matrix that its kind of layer allows."""
    limit = ATTENTION_FACTOR if ".attn" in tensor else FEED_FORWARD_FACTOR if ".ff." in tensor else OTHER_FACTOR
    return max(n for n in range(1, limit + 1) if length % n == 0)


def save_once(path: Path, shapes: Mapping[str, tuple[int, ...]], weights: Weights) -> None:
    if not path.exists():
        print(f"making {path.name}", file=sys.stderr, flush=True)
        unfinished = path.with_suffix(".unfinished")
        save_file({name: weights.of_shape(name, shape) for name, shape in shapes.items()}, unfinished, {"format": "pt"})
        os.replace(unfinished, path)
