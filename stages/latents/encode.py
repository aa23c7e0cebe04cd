"""Images to VAE posteriors, one image at a time, in portions that worker processes write to files.

The cache holds the posterior's mean and standard deviation, unscaled, so that training draws its own
sample each time (sd-scripts caches one sample, whose noise then belongs to the picture for ever).
One image a forward pass: the batch size chooses convolution kernels and with them the last bits.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro.errors import StageError
from repro.numerics import fix_torch
from repro.tensorfile import write_tensors

import torch

from booru.images.archives import ImageArchives
from booru.images.decoding import UnreadableImageError, decode
from latents.buckets import Placement, Size
from latents.resize import fit

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

Row = Mapping[str, Any]  # id, archive, offset, size, sha256 of an image, as in the image index


@dataclass(frozen=True)
class MeasureTask:
    image_root: Path
    rows: list[Row]


@dataclass(frozen=True)
class EncodeTask:
    """Images to encode into one file: (row of the index, where its pixels go)."""

    image_root: Path
    vae: Path
    images: list[tuple[Row, Placement]]
    output: Path


def measure(task: MeasureTask) -> list[Size | str]:
    """Width and height of each image, or the reason why it cannot be read. All of it is decoded: damage
    shows only then. (The database's sizes are no help: many dumps hold resized copies.)"""
    archives = ImageArchives(task.image_root)
    found: list[Size | str] = []
    for row in task.rows:
        try:
            found.append(decode(archives.read(row)).size)
        except UnreadableImageError as error:
            found.append(str(error))
    return found


def load_vae(folder: Path) -> "AutoencoderKL":
    """The AutoencoderKL in `folder`, float32, for inference.

    Raises:
        StageError: not such a folder, or a weight is not finite.
    """
    from diffusers import AutoencoderKL  # late: it takes seconds, and workers that measure do without

    try:
        vae = AutoencoderKL.from_pretrained(folder, local_files_only=True, torch_dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise StageError(f"{folder}: not a diffusers AutoencoderKL ({str(error).splitlines()[0]})") from None
    for name, weight in vae.state_dict().items():
        if not bool(torch.isfinite(weight).all()):
            raise StageError(f"{folder}: weight {name} is not finite (NaN or infinite); use another base model")
    return vae.eval().requires_grad_(False)


@lru_cache(maxsize=1)
def _vae_of_this_process(folder: Path) -> "AutoencoderKL":
    fix_torch()
    return load_vae(folder)


@torch.no_grad()
def posterior(vae: "AutoencoderKL", pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 [height, width, 3] -> posterior mean and standard deviation, float32 [channels, height/f, width/f], unscaled."""
    picture = pixels.permute(2, 0, 1).unsqueeze(0).float() / 127.5 - 1.0
    distribution = vae.encode(picture).latent_dist
    return distribution.mean[0], distribution.std[0]


def encode(task: EncodeTask) -> int:
    """Write `task.output`: mean, std [n, channels, h, w] and ids [n] of the images whose latents are finite,
    the others' ids as metadata. Returns how many images were tried."""
    vae, archives = _vae_of_this_process(task.vae), ImageArchives(task.image_root)
    ids, means, deviations, not_finite = [], [], [], []
    for row, placement in task.images:
        pixels = torch.from_numpy(fit(decode(archives.read(row)), placement))
        mean, deviation = posterior(vae, pixels)
        if not bool((torch.isfinite(mean) & torch.isfinite(deviation)).all()):
            not_finite.append(row["id"])
            continue
        ids.append(row["id"])
        means.append(mean)
        deviations.append(deviation)
    tensors = {"ids": torch.tensor(ids, dtype=torch.int64)}
    if ids:
        tensors |= {"mean": torch.stack(means), "std": torch.stack(deviations)}
    write_tensors(task.output, tensors, {"not_finite": json.dumps(not_finite)})
    return len(task.images)
