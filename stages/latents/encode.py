"""Images to latents, one image at a time, in portions that worker processes write to files.

Of a VAE the cache holds the posterior's mean and standard deviation, unscaled, so that training draws its own
sample each time (sd-scripts caches one sample, whose noise then belongs to the picture for ever).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from repro.devices import TORCH_TYPES, Device, device_of_this_process
from repro.numerics import fix_torch
from repro.outputs import write_json
from repro.params import FamilyName, Precision
from repro.tensorfile import write_tensors

import torch
from safetensors import safe_open

from booru.images.archives import ImageArchives
from booru.images.decoding import UnreadableImageError, decode
from booru.images.portions import Portion
from latents.buckets import Placement, Size
from latents.encoders import PictureEncoder, load_encoder
from latents.resize import fit

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
    family: FamilyName
    encoder: Path
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


@lru_cache(maxsize=1)
def _encoder_of_this_process(family: FamilyName, folder: Path, device: Device) -> PictureEncoder:
    fix_torch()
    return load_encoder(family, folder, device_of_this_process(device))


def why_lost(exact: Sequence[torch.Tensor], stored: Sequence[torch.Tensor]) -> str | None:
    """The ledger's reason to lose an image with these latents, before and after they got the shards' type; None: none."""
    if not all(bool(torch.isfinite(latents).all()) for latents in exact):
        return NOT_FINITE
    return None if all(bool(torch.isfinite(latents).all()) for latents in stored) else BEYOND_FP16


def placement_of(row: Mapping[str, Any]) -> Placement:
    bucket, resized = ((row[f"{name}_width"], row[f"{name}_height"]) for name in ("bucket", "resized"))
    return Placement(bucket, resized, row["crop_left"], row["crop_top"])


def encode(task: EncodeTask) -> int:
    """Write the encoder's tensors [n, channels, h, w] of the images that give latents, in their order, and as metadata
    {number of the image in the portion: reason} of the others. Returns how many images were tried."""
    encoder = _encoder_of_this_process(task.family, task.encoder, task.device)
    archives, encoded, lost = ImageArchives(task.image_root), [], {}
    for number, row in enumerate(task.portion.rows()):
        pixels = torch.from_numpy(fit(decode(archives.read(row)), placement_of(row)))
        exact = encoder.encode(pixels, task.precision)
        stored = [latents.to(TORCH_TYPES[task.dtype]) for latents in exact]
        if reason := why_lost(exact, stored):
            lost[number] = reason
            continue
        encoded.append(stored)
    columns = zip(encoder.tensors, zip(*encoded, strict=True), strict=True) if encoded else ()
    tensors = {name: torch.stack(latents) for name, latents in columns}
    write_tensors(task.portion.output, tensors, {"lost": json.dumps(lost)})
    return len(task.portion)


def lost_in(portion: Portion) -> dict[int, str]:
    """{row of the list of images: reason} of an encoded portion's images that gave no latents."""
    with safe_open(portion.output, framework="pt") as file:
        return {portion.start + int(number): reason for number, reason in json.loads(file.metadata()["lost"]).items()}
