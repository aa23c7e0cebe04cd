"""Images to VAE posteriors, one image at a time, in portions that worker processes write to files.

The cache holds the posterior's mean and standard deviation, unscaled, so that training draws its own
sample each time (sd-scripts caches one sample, whose noise then belongs to the picture for ever).
One image a forward pass: the batch size chooses convolution kernels and with them the last bits.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from repro.devices import TORCH_TYPES, Device, at_precision, device_of_this_process
from repro.errors import StageError
from repro.numerics import fix_torch
from repro.outputs import write_json
from repro.params import Precision
from repro.tensorfile import write_tensors

import torch
from safetensors import safe_open

from booru.images.archives import ImageArchives
from booru.images.decoding import UnreadableImageError, decode
from latents.buckets import Placement, Size
from latents.portions import Portion
from latents.resize import fit

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

StoredType = Literal["fp32", "fp16"]
NOT_FINITE = "latents not finite"
BEYOND_FP16 = "latents beyond the range of fp16: set latents.dtype to fp32"


@dataclass(frozen=True)
class MeasureTask:
    image_root: Path
    portion: Portion


@dataclass(frozen=True)
class EncodeTask:
    image_root: Path
    vae: Path
    device: Device
    precision: Precision
    dtype: StoredType
    portion: Portion


def measure(task: MeasureTask) -> int:
    """Write the width and height of each image, or the reason why it cannot be read, as a JSON list; returns how many
    images were tried. All of an image is decoded: damage shows only then. (The database's sizes are no help: many dumps
    hold resized copies.)"""
    archives = ImageArchives(task.image_root)
    found: list[Size | str] = []
    for row in task.portion.rows():
        try:
            found.append(decode(archives.read(row)).size)
        except UnreadableImageError as error:
            found.append(str(error))
    write_json(task.portion.output, found)
    return len(found)


def measured(portion: Portion) -> list[list[int] | str]:
    """What `measure` wrote."""
    return json.loads(portion.output.read_text(encoding="utf-8"))


def load_vae(folder: Path, device: str | torch.device = "cpu") -> "AutoencoderKL":
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
    return vae.eval().requires_grad_(False).to(device)


@lru_cache(maxsize=1)
def _vae_of_this_process(folder: Path, device: Device) -> "AutoencoderKL":
    fix_torch()
    return load_vae(folder, device_of_this_process(device))


@torch.no_grad()
def posterior(vae: "AutoencoderKL", pixels: torch.Tensor, precision: Precision = "fp32") -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 [height, width, 3] -> posterior mean and standard deviation, float32 [channels, height/f, width/f], unscaled,
    on the CPU. The VAE runs on its own device in `precision`; mean and deviation are taken from its output in float32."""
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    picture = pixels.permute(2, 0, 1).unsqueeze(0).float() / 127.5 - 1.0
    with at_precision(vae.device, precision):
        moments = vae.encode(picture.to(vae.device)).latent_dist.parameters
    distribution = DiagonalGaussianDistribution(moments.float())
    return distribution.mean[0].cpu(), distribution.std[0].cpu()


def why_lost(exact: Sequence[torch.Tensor], stored: Sequence[torch.Tensor]) -> str | None:
    """The ledger's reason to lose an image with these latents, before and after they got the shards' type; None: none."""
    if not all(bool(torch.isfinite(latents).all()) for latents in exact):
        return NOT_FINITE
    return None if all(bool(torch.isfinite(latents).all()) for latents in stored) else BEYOND_FP16


def placement_of(row: Mapping[str, Any]) -> Placement:
    bucket, resized = ((row[f"{name}_width"], row[f"{name}_height"]) for name in ("bucket", "resized"))
    return Placement(bucket, resized, row["crop_left"], row["crop_top"])


def encode(task: EncodeTask) -> int:
    """Write mean and std [n, channels, h, w] of the images that give latents, in their order, and as metadata {number of
    the image in the portion: reason} of the others. Returns how many images were tried."""
    vae, archives = _vae_of_this_process(task.vae, task.device), ImageArchives(task.image_root)
    means, deviations, lost = [], [], {}
    for number, row in enumerate(task.portion.rows()):
        pixels = torch.from_numpy(fit(decode(archives.read(row)), placement_of(row)))
        exact = posterior(vae, pixels, task.precision)
        stored = [latents.to(TORCH_TYPES[task.dtype]) for latents in exact]
        if reason := why_lost(exact, stored):
            lost[number] = reason
            continue
        means.append(stored[0])
        deviations.append(stored[1])
    tensors = {"mean": torch.stack(means), "std": torch.stack(deviations)} if means else {}
    write_tensors(task.portion.output, tensors, {"lost": json.dumps(lost)})
    return len(task.portion)


def lost_in(portion: Portion) -> dict[int, str]:
    """{row of the list of images: reason} of an encoded portion's images that gave no latents."""
    with safe_open(portion.output, framework="pt") as file:
        return {portion.start + int(number): reason for number, reason in json.loads(file.metadata()["lost"]).items()}
